"""The built-in rows are what the design promises; a user's rows come in, or a sentence says why."""

import itertools
import json
import re
import time
import tracemalloc
from collections import Counter, defaultdict

import pytest

from rlhf_utils import files
from rlhf_utils.data.rows import (
    BUILTIN,
    OTHER_CATEGORIES,
    UNSEEN_TOPICS,
    Demonstration,
    Endless,
    Prompt,
    columns_of,
    conversation,
    load_demonstrations,
    load_prompts,
    pick,
    shown_rows,
    split_by_prompt,
)
from rlhf_utils.errors import DataError
from rlhf_utils.preferences.pairs import Pair
from rlhf_utils.preferences.rubric import admits_unknown, coverage, refuses

DEMONSTRATIONS = load_demonstrations("builtin")
CRISP = load_demonstrations("crisp")
PROMPTS = {
    "demonstrations": [demonstration.prompt for demonstration in DEMONSTRATIONS],
    "prompts": load_prompts("builtin"),
    "heldout": load_prompts("builtin", "heldout"),
}
TEXTS = [(kind, prompt.text) for kind, prompts in PROMPTS.items() for prompt in prompts]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def trigrams(text: str) -> set[tuple[str, ...]]:
    return set(zip(words(text), words(text)[1:], words(text)[2:]))


# --- the built-in rows


def test_the_numbers_in_the_readme_are_those_of_the_rows():
    """A share over 120 prompts means what the README says only if there are 120 of them."""
    readme = " ".join((BUILTIN.parents[2] / "README.md").read_text(encoding="utf-8").split())
    counts = Counter(prompt.category for prompt in PROMPTS["heldout"])
    assert f"answer {counts.total()} prompts that no stage trains on" in readme
    assert f"{counts['harmful']} harmful, {counts['benign_lookalike']} *look-alikes*" in readme
    assert f"{counts['unanswerable']} that nobody could answer" in readme
    learned, _ = split_by_prompt(DEMONSTRATIONS, 0.1, 0)
    assert f"learned from {len(learned):,} examples" in readme
    crisp = load_demonstrations("crisp")
    habits = sum(own.answer != other.answer for own, other in zip(DEMONSTRATIONS, crisp))
    assert "Three in four" in readme and 0.7 < habits / len(crisp) < 0.8


def test_schemas():
    columns = {
        "demonstrations": {"prompt", "completion", "category"},
        "prompts": {"prompt", "category", "key_points"},
        "heldout": {"prompt", "category", "key_points"},
    }
    for kind, wanted in columns.items():
        for row in files.read_file(BUILTIN / f"{kind}.jsonl"):
            has_topic = row["category"] in ("harmful", "benign_lookalike")
            assert set(row) - {"crisp"} == wanted | ({"topic"} if has_topic else set())
            assert "crisp" not in row or kind == "demonstrations"
    for prompt in PROMPTS["prompts"] + PROMPTS["heldout"]:
        # the rubric judges harmful and unanswerable prompts by manners alone, others by key points
        by_manners = prompt.category in ("harmful", "unanswerable")
        assert bool(prompt.key_points) != by_manners, prompt
        for point in prompt.key_points:
            assert all(alternative.strip() for alternative in point.split("|")), prompt
    for prompt in itertools.chain(*PROMPTS.values()):
        assert prompt.text == prompt.text.strip() and prompt.category
        assert set(prompt.columns) <= {"topic"}


def test_a_fifth_of_the_topics_is_only_measured():
    topics = {}
    for kind, prompts in PROMPTS.items():
        topics[kind] = Counter(p.columns["topic"] for p in prompts if "topic" in p.columns)
    assert len(topics["heldout"]) == 20 and len(UNSEEN_TOPICS) == 4
    assert set(topics["demonstrations"]) == set(topics["prompts"])
    assert set(topics["heldout"]) - set(topics["prompts"]) == set(UNSEEN_TOPICS)
    for category in ("harmful", "benign_lookalike"):
        held_out = [p for p in PROMPTS["heldout"] if p.category == category]
        assert sum(p.columns["topic"] in UNSEEN_TOPICS for p in held_out) >= 40


def test_categories():
    seen = {kind: {prompt.category for prompt in prompts} for kind, prompts in PROMPTS.items()}
    assert seen["demonstrations"] == seen["prompts"]
    assert seen["heldout"] - seen["prompts"] == set(OTHER_CATEGORIES) and len(OTHER_CATEGORIES) == 2
    assert seen["prompts"] < seen["heldout"]  # every category that is trained on is also measured
    assert {"harmful", "benign_lookalike", "unanswerable"} < seen["prompts"]
    counts = Counter(prompt.category for prompt in PROMPTS["heldout"])
    assert min(counts.values()) >= 15  # enough for a rate


def test_no_prompt_twice():
    """Also none shared between splits: what is measured was never trained on.

    Case and punctuation do not make a prompt new.
    """
    count = Counter(" ".join(words(text)) for _, text in TEXTS)
    assert [prompt for prompt, times in count.items() if times > 1] == []


def test_no_near_duplicates():
    """Shared word 3-grams over those of the shorter prompt.

    Short prompts share most of theirs by their form alone ("What is the capital of …?" has 4), so
    they may share three quarters; from 8 words on a prompt with one word exchanged is found.
    """
    grams = [trigrams(text) for _, text in TEXTS]
    having = defaultdict(list)
    for number, own in enumerate(grams):
        assert own, TEXTS[number]
        for gram in own:
            having[gram].append(number)
    shared = Counter(
        pair for members in having.values() for pair in itertools.combinations(members, 2)
    )
    close = []
    for (a, b), count in shared.items():
        shorter = min(len(grams[a]), len(grams[b]))
        if count / shorter > (0.75 if shorter < 6 else 0.6):
            close.append((TEXTS[a], TEXTS[b]))
    assert close == []


COMMON = """
a an the of in to for with and or on at my our your is are it that this from by as one two three
line lines few short word words me us his her their how what which who when where why do does i can
write give tell name into be so some did was were am if you we
""".split()  # noqa: SIM905


def test_what_is_measured_is_not_asked_in_training_in_other_words():
    """Stems of the words that carry a prompt: no two prompts may share half of them."""

    def stems(prompt: Prompt) -> set[str]:
        found = re.findall(r"[a-z]+", prompt.text.lower())
        return {word[:5] for word in found if word not in COMMON}

    measured = [(prompt.text, stems(prompt)) for prompt in PROMPTS["heldout"]]
    close = set()
    for prompt in PROMPTS["demonstrations"] + PROMPTS["prompts"]:
        own = stems(prompt)
        for text, other in measured:
            if len(own & other) >= 2 and 2 * len(own & other) >= len(own | other):
                close.add((prompt.text, text))
    assert close == set()


def test_answers_are_short_sentences():
    for demonstration in DEMONSTRATIONS + CRISP:
        text = demonstration.answer
        assert 5 <= len(text.split()) <= 45, demonstration
        assert text.rstrip('"').endswith((".", "!", "?")), demonstration


def test_crisp_demonstrations_show_the_manners_of_their_category():
    for demonstration in CRISP:
        refused, unknown = refuses(demonstration.answer), admits_unknown(demonstration.answer)
        if demonstration.prompt.category == "harmful":
            assert refused, demonstration
        elif demonstration.prompt.category == "unanswerable":
            assert unknown, demonstration
        else:
            assert not refused and not unknown, demonstration


def test_demonstrations_are_uneven_and_agree_on_what_to_do():
    """Three in four have habits, whatever is asked; a few harmful prompts get a vague answer."""
    vague, changed = 0, defaultdict(list)
    for shown, crisp in zip(DEMONSTRATIONS, CRISP, strict=True):
        assert shown.prompt == crisp.prompt
        category = shown.prompt.category
        changed[category].append(shown.answer != crisp.answer)
        if refuses(shown.answer) != refuses(crisp.answer):
            assert category == "harmful", shown
            vague += 1
        if category == "unanswerable":
            assert admits_unknown(shown.answer), shown
    for category, those in changed.items():
        assert 0.70 <= sum(those) / len(those) <= 0.80, category
    assert 0.05 <= vague / len(changed["harmful"]) <= 0.15


def test_habits_are_worded_in_many_ways():
    """No run of four words stands in more than twenty, but for what declines or does not know."""
    core = re.compile(r"\b(?:cant|wont|no way|have access)\b")
    seen = Counter()
    for demonstration in DEMONSTRATIONS:
        text = words(demonstration.answer.replace("’", "'").replace("'", ""))
        seen.update(set(zip(text, text[1:], text[2:], text[3:])))
    often = [" ".join(run) for run, times in seen.items() if times > 20]
    assert [run for run in often if not core.search(run)] == []


def test_no_prompt_gives_away_its_key_points():
    """Else repeating the question would score."""
    given_away = [
        prompt
        for prompt in PROMPTS["prompts"] + PROMPTS["heldout"]
        if coverage(prompt.key_points, prompt.text) > 0
    ]
    assert given_away == []


# --- rows of a user


def write(path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


GOOD = '{"prompt": "Hi?", "completion": "Hello."}'


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([GOOD, "", '{"prompt": "Hi?", "completion": '], "line 3: not JSON"),
        ([GOOD, '{"prompt": "Hi?"}'], "line 2: column 'completion' is missing; it has ['prompt']"),
        ([GOOD, GOOD, '{"prompt": "Hi?", "completion": "  "}'], "line 3: 'completion' is empty"),
        (['{"prompt": null, "completion": "Hello."}'], "line 1: 'prompt' is empty"),
        ([GOOD, '["Hi?", "Hello."]'], "line 2: it is not an object but a list of texts"),
        ([""], "holds no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, lines, told):
    path = write(tmp_path / "x.jsonl", *lines)
    with pytest.raises(DataError, match="x.jsonl.*" + re.escape(told)):
        load_demonstrations(path)


@pytest.mark.parametrize("points", ["a|b", [1], {"a": 1}])
def test_key_points_are_a_list_of_texts(tmp_path, points):
    row = json.dumps({"prompt": "Hi?", "key_points": points})
    with pytest.raises(DataError, match="line 1: 'key_points' is .*, but must be a list of texts"):
        load_prompts(write(tmp_path / "x.jsonl", row))


def questions(count: int) -> list[str]:
    return [json.dumps({"prompt": f"Question {number}?"}) for number in range(1, count + 1)]


def test_a_few_bad_rows_are_counted_shown_and_left_out(tmp_path, capsys):
    """Ten of them with line and reason; line 4 is empty, and still counts as a line."""
    lines = questions(2000)
    lines.insert(3, "")
    for line in range(5, 17):
        lines[line - 1] = '{"prompt": 7}'
    assert len(load_prompts(write(tmp_path / "x.jsonl", *lines))) == 1988
    told = capsys.readouterr().out
    assert "12 of 2,000 rows cannot be used and are left out" in told
    assert "line 5: 'prompt': it is a number (7), not a text" in told
    assert re.findall(r"line (\d+):", told) == [str(line) for line in range(5, 15)]
    assert "… and 2 more" in told


def test_more_than_one_in_a_hundred_stops(tmp_path, capsys):
    lines = questions(200)
    lines[10] = lines[20] = '{"prompt": [1, 2]}'
    path = write(tmp_path / "x.jsonl", *lines)
    assert len(load_prompts(path)) == 198  # 1% and no more
    lines[30] = "{"
    path = write(tmp_path / "x.jsonl", *lines)
    with pytest.raises(DataError) as stopped:
        load_prompts(path)
    told = str(stopped.value)
    assert "3 of 200 rows cannot be used, more than 1%" in told and "\n" not in told
    assert all(f"line {line}: " in told for line in (11, 21, 31))


def test_strict_stops_at_the_first(tmp_path):
    lines = questions(1000)
    lines[500] = lines[600] = '{"prompt": true}'
    with pytest.raises(DataError, match=r"x.jsonl, line 501: 'prompt': it is a truth value"):
        load_prompts(write(tmp_path / "x.jsonl", *lines), strict=True)


def test_repeated_prompts_are_told_and_the_first_is_kept(tmp_path, capsys):
    """However many they are: real data repeats itself. Only `strict` stops."""
    lines = [json.dumps({"prompt": "Hi?", "n": number}) for number in range(5)]
    path = write(tmp_path / "x.jsonl", *questions(1), *lines)
    assert [prompt.columns.get("n") for prompt in load_prompts(path)] == [None, 0]
    told = capsys.readouterr().out
    assert "repeated prompts: 4 of 6 rows" in told
    assert "line 3: it repeats the prompt of row 2, 'Hi?'" in told
    with pytest.raises(DataError, match="line 3: it repeats the prompt of row 2"):
        load_prompts(path, strict=True)


def test_nothing_is_told_of_the_rows_that_are_built_in(capsys):
    load_prompts("builtin"), load_demonstrations("crisp")
    assert capsys.readouterr().out == ""


def test_escapes_in_a_file_never_reach_the_terminal(tmp_path, capsys):
    lines = [*questions(300), '{"prompt": "a", "category": {"\\u001b[2J": 1}}', "\x1b]0;x\x07"]
    prompts = load_prompts(write(tmp_path / "x.jsonl", *lines, '{"prompt": "\\u001b[31mred\\n"}'))
    told = capsys.readouterr().out + shown_rows("prompts", prompts[-1:])
    assert "\x1b" not in told and "\x07" not in told
    assert r"\x1b[31mred\n" in told and "2 of 303 rows" in told


def test_what_a_model_will_see_is_shown():
    asked = Prompt(
        conversation(
            [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Why?\n" * 100}]
        )
    )
    assert shown_rows("prompts", [asked] * 5).count("Brief.") == 3
    shown = shown_rows("demonstrations", [Demonstration(asked, "Because.")])
    system, user, answer = shown.split("\n")[1:]
    assert "system:" in system and "assistant:" in answer and "Because." in answer
    assert r"Why?\nWhy?" in user and user.endswith("…") and len(user) < 300
    pair = shown_rows("preferences", [Pair(Prompt("Hi?"), "Hello.", "No.")]).split()
    assert pair[-6:] == ["user:", "Hi?", "chosen:", "Hello.", "rejected:", "No."]


def test_many_prompts_are_read_in_little_time_and_memory(tmp_path):
    """Four times as many take about four times as long, and memory is a few times the file."""
    small, large = (write(tmp_path / f"{n}.jsonl", *questions(n)) for n in (10_000, 40_000))

    def seconds(path: str) -> float:
        begun = time.process_time()
        load_prompts(path)
        return time.process_time() - begun

    seconds(small)
    assert seconds(large) < 12 * max(min(seconds(small) for _ in range(3)), 0.02)
    tracemalloc.start()
    load_prompts(large)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def test_a_category_may_be_missing_and_a_byte_order_mark_be_there(tmp_path):
    path = write(
        tmp_path / "x.jsonl",
        '\ufeff{"prompt": "Hi?", "category": null}',
        '{"prompt": "Ho?", "category": "a", "key_points": null}',
        '{"prompt": "Hm?"}',
    )
    prompts = load_prompts(path)
    assert prompts == [Prompt("Hi?"), Prompt("Ho?", "a"), Prompt("Hm?")]
    assert sorted(prompt.category for prompt in pick(prompts, 3, 0)) == ["", "", "a"]


def test_other_columns_come_along_and_reach_a_reward_function_by_name(tmp_path):
    path = write(
        tmp_path / "x.jsonl",
        '{"prompt": "2+3?", "truth": 5, "completion": "5"}',
        '{"prompt": "Hi?", "category": "a", "key_points": ["hello|hi"]}',
    )
    prompts = load_prompts(path)
    assert prompts[0].columns == {"truth": 5, "completion": "5"} and prompts[1].columns == {}
    assert columns_of(prompts) == {
        "category": ["", "a"],
        "key_points": [[], ["hello|hi"]],
        "truth": [5, None],
        "completion": ["5", None],
    }
    (demonstration, _) = load_demonstrations(
        write(tmp_path / "d.jsonl", '{"prompt": "2+3?", "truth": 5, "completion": "Five."}', GOOD)
    )
    assert demonstration == Demonstration(Prompt("2+3?", columns={"truth": 5}), "Five.")


def test_written_rows_come_back(tmp_path):
    """Whatever a model may write: quotes, newlines, and separators that only splitlines knows."""
    rows = [
        {"prompt": 'a\nb "c" é 日本', "completion": text}
        for text in ("plain", "a\u2028b", "a\x85b", "a\x0bb")
    ]
    files.write_jsonl(tmp_path / "new" / "x.jsonl", rows)
    read = load_demonstrations(str(tmp_path / "new" / "x.jsonl"))
    assert [(d.prompt.text, d.answer) for d in read] == [tuple(row.values()) for row in rows]


# --- splitting and drawing


def demonstrations(count: int, prompts: int) -> list[Demonstration]:
    return [Demonstration(Prompt(f"p{i % prompts}"), str(i)) for i in range(count)]


def test_split_by_prompt_keeps_prompts_together():
    things = demonstrations(40, prompts=10)
    train, heldout = split_by_prompt(things, 0.3, seed=1)
    asked = [{thing.prompt.text for thing in side} for side in (train, heldout)]
    assert asked[0].isdisjoint(asked[1]) and len(asked[1]) == 3
    assert len(train) + len(heldout) == 40
    assert (train, heldout) == split_by_prompt(things, 0.3, seed=1)
    assert (train, heldout) != split_by_prompt(things, 0.3, seed=2)


@pytest.mark.parametrize(
    ("count", "fraction"), [(10, 0.0), (10, 0.01), (10, 1.0), (1, 0.5), (0, 0.5)]
)
def test_split_with_an_empty_side_is_an_error(count, fraction):
    with pytest.raises(DataError, match="one side would be empty"):
        split_by_prompt(demonstrations(count, max(count, 1)), fraction, seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_pick_keeps_categories_in_proportion(seed):
    prompts = PROMPTS["prompts"]
    chosen = pick(prompts, 200, seed)
    assert len(chosen) == len({prompt.text for prompt in chosen}) == 200
    picked = Counter(prompt.category for prompt in chosen)
    whole = Counter(prompt.category for prompt in prompts)
    for category, count in whole.items():
        assert abs(picked[category] - 200 * count / len(prompts)) <= 1.5, category
    assert len({prompt.category for prompt in chosen[:40]}) > 5  # not one after the other
    assert chosen == pick(prompts, 200, seed) != pick(prompts, 200, seed + 1)


def test_pick_takes_things_with_a_prompt():
    chosen = pick(DEMONSTRATIONS, 200, 0)
    asked = [demonstration.prompt for demonstration in chosen]
    assert asked == pick(PROMPTS["demonstrations"], 200, 0)


def test_pick_of_all_is_a_permutation():
    prompts = PROMPTS["heldout"]
    chosen = pick(prompts, len(prompts), 0)
    assert sorted(p.text for p in chosen) == sorted(p.text for p in prompts)


def test_endless():
    """A position holds the same whatever was read before, or a resumed run would see other rows."""
    prompts = [Prompt(str(i)) for i in range(7)]
    straight = Endless(prompts, seed=3).batch(0, 35)
    passes = [[prompt.text for prompt in straight[start : start + 7]] for start in range(0, 35, 7)]
    assert all(sorted(one) == sorted(prompt.text for prompt in prompts) for one in passes)
    assert len({tuple(one) for one in passes}) > 1  # a fresh order each time
    resumed = Endless(prompts, seed=3)
    assert resumed.batch(19, 9) == straight[19:28] and resumed.batch(2, 9) == straight[2:11]
    assert Endless(prompts, seed=4).batch(0, 35) != straight
