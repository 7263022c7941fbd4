"""The token inspector as a fragment, and in a real browser with hostile answers."""

import json
import re

import pytest

from rlhf_utils.lab import tokens
from rlhf_utils.ppo.config import PPOConfig

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>"
URLS = re.compile(r"(?:src|href|url|import)\s*[=(]\s*[\"']?https?:", re.IGNORECASE)


def sample(prompt, texts, ratios, update, **others):
    """A row of a watched prompt: values rise, the last token is paid a score of 2."""
    count = len(texts)
    paid = [-0.1 * ratio for ratio in ratios]
    paid[-1] += 2.0
    numbers = {"logratio": ratios, "value": [0.1 * i for i in range(count)], "reward": paid}
    numbers |= {"advantage": [0.5] * count, "decline": 0.6 - 0.1 * update, "decline_sft": 0.6}
    row = {"prompt": prompt, "answer": "".join(texts[:-1]), "score": 2.0, "kl": 1.25}
    return row | {"category": "harmful", "tokens": texts} | numbers | others


def samples():
    rows = []
    for update in (0, 4, 5):
        moved = 0.2 * update
        first = sample("Who?", ["I", " can", "'t", "<eos>"], [moved, -moved, 0.0, 0.1], update)
        other = sample(HOSTILE, [HOSTILE, "\n", "b", "<eos>"], [moved] * 4, update)
        rows.append({"update": update, "samples": [first, other]})
    return rows


def answers(count=120):
    rows = []
    for n in range(count):
        row = {"prompt": f"Question {n % 7}?", "answer": f"Answer {n}.", "words": n % 20}
        row |= {"kind": ["harmful", "science", ""][n % 3], "score": n / 10 - 5, "kl": n / 50}
        rows.append(row | {"declined": n % 3 == 0} | ({"gold": 4.5} if n == 60 else {}))
    rows[5]["answer"] = HOSTILE
    return [{"update": 1, "answers": rows[:60]}, {"update": 2, "answers": rows[60:]}]


def test_hostile_text_stays_inside_its_script_element():
    text = tokens.inspector(samples(), answers(), rewards_note=HOSTILE)
    assert text.count("</script>") == text.count("<script") == 2 and "<img" not in text
    data = json.loads(re.search(r'json">(.*?)</script>', text, re.DOTALL)[1])
    assert data["note"] == HOSTILE == data["watched"][1]["prompt"]
    assert data["answers"]["rows"][5][3] == HOSTILE
    assert not URLS.search(text)


def test_without_scripts_a_table_says_how_likely_each_begins_to_decline():
    plain = tokens.inspector(samples(), []).split("<script")[0]
    assert "Who?</td><td>60%</td><td>10%</td>" in plain


def test_samples_of_an_earlier_version_are_shown_without_numbers():
    old = [{"update": 0, "samples": [{"prompt": "Who?", "answer": "Me.", "score": 1.0, "kl": 0.0}]}]
    text = tokens.inspector(old, [])
    assert '"tokens":["Me."]' in text and '"logratio":null' in text and "<td>–</td>" in text


def test_a_long_run_shows_its_first_and_last_update_and_some_between():
    rows = [row | {"update": n} for n, row in enumerate(samples()[:1] * 1250)]
    updates = [one["update"] for one in tokens._by_prompt(rows)[0]["history"]]
    assert updates == [*range(0, 1249, 32), 1249] and len(updates) <= tokens.MOST_UPDATES + 1
    assert tokens._by_prompt([]) == []


@pytest.mark.parametrize("batch_size, updates", [(4, 10), (128, 47), (2, 3000)])
def test_kept_answers_are_bounded_and_spread_evenly(batch_size, updates):
    from types import SimpleNamespace

    import numpy as np

    from rlhf_utils.data.rows import Prompt

    config = PPOConfig(
        total_episodes=batch_size * updates,
        batch_size=batch_size,
        num_mini_batches=1,
        per_device_train_batch_size=1,
    )
    prompts = [Prompt(f"{i}?", "science", ["water"]) for i in range(batch_size)]
    texts = [f"Water {i}." for i in range(batch_size)]
    rollout = SimpleNamespace(
        samples=SimpleNamespace(answers=texts),
        scores=np.arange(batch_size) / 3,
        kl_full=np.ones((batch_size, 5)),
    )
    each = [tokens.batch_answers(rollout, prompts, index, config) for index in range(updates)]
    counts = [len(rows) for rows in each]
    assert max(counts) - min(counts) <= 1
    assert min(2000, batch_size * updates) / 2 <= sum(counts) <= 2000
    row = each[0][0]
    assert row == {
        "prompt": "0?",
        "answer": "Water 0.",
        "kind": "science",
        "score": 0.0,
        "kl": 5.0,
        "words": 2,
        "declined": False,
        "gold": row["gold"],
    }
    assert 0 < row["gold"] <= 5


# --- in a browser


@pytest.fixture
def page(chromium, tmp_path):
    """The inspector twice on one page, from a file; no request and no error is allowed."""
    path = tmp_path / "page.html"
    twice = tokens.inspector(samples(), answers()) + tokens.inspector(samples(), [])
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{twice}", encoding="utf-8")
    page, wrong = chromium.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append("a dialog: " + dialog.message))
    page.on("request", lambda request: wrong.append(request.url))
    page.goto(path.as_uri())
    assert wrong.pop(0) == path.as_uri()
    yield page
    assert not wrong
    page.close()


def shown(page, box=1):
    """(text, background) of each token of the box: 0 is the first update, 1 the chosen one."""
    return (
        page.locator(".text")
        .nth(box)
        .evaluate(
            "box => [...box.children].map((span) => [span.textContent, span.style.background])"
        )
    )


def test_a_browser_shows_hostile_answers_as_text(page):
    inspector = page.locator(".rlhf-tokens").first
    assert inspector.locator("img").count() == 0
    inspector.locator("select").first.select_option("1")
    assert shown(page)[0][0] == HOSTILE and shown(page)[1][0] == "⏎\n"
    inspector.locator("input[type=search]").fill("onerror")
    assert inspector.locator("tbody tr").count() == 1
    assert HOSTILE in inspector.locator("tbody").inner_text()


def test_a_browser_colours_tokens_by_the_chosen_number(page):
    first, second, third, _ = shown(page)
    assert "0, 114, 178" in first[1] and "213, 94, 0" in second[1]  # likelier, less likely
    assert third[1].startswith("rgba(0, 114, 178, 0)")
    assert not any(background.endswith("0.6)") for _, background in shown(page, 0)[:3])
    page.get_by_label("reward so far").first.check()
    assert shown(page)[-1][1].endswith("0.6)")  # the score comes with the last
    assert page.locator("svg circle").count() == 2  # the other inspector kept its own switch
    assert page.get_by_label("log-ratio").nth(1).is_checked()


def test_a_browser_tells_exact_numbers_by_mouse_and_by_keys(page):
    read = page.locator(".read").nth(1)
    page.locator(".text").nth(1).locator("span").nth(1).hover()
    assert (
        "“ can”, token 2: log-ratio −1.000 · value +0.100 · advantage +0.500" in read.inner_text()
    )
    assert "reward so far 0.000" in read.inner_text()
    page.locator(".text").nth(1).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    # −0.1 · (1.0 − 1.0 + 0.0 + 0.1) + 2
    assert "token 4" in read.inner_text() and "reward so far +1.990" in read.inner_text()


def test_a_browser_goes_back_to_earlier_updates(page):
    inspector = page.locator(".rlhf-tokens").first
    assert "After update 5" in inspector.inner_text() and "60% → 10%" in inspector.inner_text()
    page.evaluate("void (document.onkeydown = () => { window.shortcut = true })")
    inspector.locator("input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("window.shortcut") is None
    assert "After update 4" in inspector.inner_text() and "60% → 20%" in inspector.inner_text()
    assert inspector.locator("polyline").count() == 2


def test_a_browser_searches_and_sorts(page):
    inspector = page.locator(".rlhf-tokens").first
    told, rows = inspector.locator(".search p"), inspector.locator("tbody tr")
    assert told.inner_text() == "120 of 120 answers; the first 50 are shown." and rows.count() == 50
    assert "Answer 119." in rows.first.inner_text()  # the highest reward
    inspector.get_by_label("kind", exact=True).select_option("harmful")
    inspector.get_by_label("declined", exact=True).select_option("1")
    inspector.get_by_label("reward from").fill("-2")
    inspector.get_by_label("reward to").fill("1.5")
    inspector.get_by_label("KL to").fill("1")
    wanted = [n for n in range(120) if n % 3 == 0 and -2 <= n / 10 - 5 <= 1.5 and n / 50 <= 1]
    assert told.inner_text() == f"{len(wanted)} of 120 answers." and rows.count() == len(wanted)
    inspector.get_by_role("button", name="KL").click()
    inspector.get_by_role("button", name="KL").click()  # ascending
    assert f"Answer {wanted[0]}." in rows.first.inner_text()
    inspector.get_by_label("text").fill("no such words")
    assert told.inner_text() == "0 of 120 answers."


IN_JUPYTERLAB = """(fragment) => {
    const output = document.createElement("div");
    output.innerHTML = fragment;
    for (const old of [...output.getElementsByTagName("script")]) {
        const copy = document.createElement("script");
        for (const { name, value } of old.attributes) copy.setAttribute(name, value);
        copy.textContent = old.textContent;
        old.replaceWith(copy);
    }
    document.body.replaceChildren(output);
}"""  # how JupyterLab shows HTML: it copies scripts, which run when the output is shown


def test_a_browser_draws_it_as_jupyterlab_shows_html(page):
    page.evaluate(IN_JUPYTERLAB, tokens.inspector(samples(), answers()))
    assert page.locator(".plain").count() == 0 and page.locator("tbody tr").count() == 50
    assert "60% → 10%" in page.locator(".rlhf-tokens").inner_text()


def test_a_browser_names_no_update_that_is_not_there(page):
    page.evaluate(IN_JUPYTERLAB, tokens.inspector(samples()[:1], []))
    labels = page.locator("svg text").all_text_contents()
    assert [label for label in labels if "update" in label] == ["update 0"]


def test_a_browser_as_narrow_as_a_phone_shows_all(page):
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_browser_without_scripts_shows_the_table(chromium, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(f"<meta charset=utf-8>{tokens.inspector(samples(), answers())}")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert "Who?" in page.locator("table").inner_text()
    context.close()
