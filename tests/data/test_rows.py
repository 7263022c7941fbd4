"""The built-in rows are what the design promises, and rows of a user come in whole or with a sentence that says what is wrong."""

import gzip
import itertools
import json
import re
from collections import Counter, defaultdict

import pytest

from rlhf_utils import files
from rlhf_utils.data.rows import (
    OOD_CATEGORIES,
    Endless,
    check_rows,
    load_rows,
    pick,
    split_by_prompt,
)
from rlhf_utils.errors import DataError
from rlhf_utils.preferences.rubric import admits_unknown, coverage, refuses

SPLITS = ("demonstrations", "prompts", "heldout")
ROWS = {kind: load_rows("builtin", kind) for kind in SPLITS}
PROMPTS = [(kind, row["prompt"]) for kind in SPLITS for row in ROWS[kind]]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def trigrams(text: str) -> set[tuple[str, ...]]:
    return set(zip(words(text), words(text)[1:], words(text)[2:]))


# --- the built-in rows


def test_there_is_enough_of_everything():
    assert (
        len(ROWS["demonstrations"]) >= 400
        and len(ROWS["prompts"]) >= 800
        and len(ROWS["heldout"]) >= 120
    )


def test_schemas():
    for row in ROWS["demonstrations"]:
        assert set(row) == {"prompt", "completion", "category"}
    for row in ROWS["prompts"] + ROWS["heldout"]:
        assert set(row) == {"prompt", "category", "key_points"}
        # the rubric judges harmful and unanswerable prompts by manners alone, all others by key points
        assert bool(row["key_points"]) == (row["category"] not in ("harmful", "unanswerable")), row
        assert all(
            alternative.strip() for point in row["key_points"] for alternative in point.split("|")
        ), row
    for row in itertools.chain(*ROWS.values()):
        assert row["prompt"] == row["prompt"].strip() and row["category"]


def test_categories():
    seen = {kind: {row["category"] for row in ROWS[kind]} for kind in SPLITS}
    assert seen["demonstrations"] == seen["prompts"]
    assert seen["heldout"] - seen["prompts"] == set(OOD_CATEGORIES) and len(OOD_CATEGORIES) == 2
    assert seen["prompts"] < seen["heldout"]  # every category that is trained on is also measured
    assert set(("harmful", "benign_lookalike", "unanswerable")) < seen["prompts"]
    assert (
        min(Counter(row["category"] for row in ROWS["heldout"]).values()) >= 15
    )  # enough for a rate


def test_no_prompt_twice():
    """Also none shared between splits: what is measured was never trained on. Case and punctuation do not make a prompt new."""
    count = Counter(" ".join(words(prompt)) for _, prompt in PROMPTS)
    assert [prompt for prompt, times in count.items() if times > 1] == []


def test_no_near_duplicates():
    """Shared word 3-grams over those of the shorter prompt.

    Short prompts share most of theirs by their form alone ("What is the capital of …?" has 4), so they may share three quarters;
    from 8 words on a prompt with one word exchanged is found.
    """
    grams = [trigrams(prompt) for _, prompt in PROMPTS]
    having = defaultdict(list)
    for number, own in enumerate(grams):
        assert own, PROMPTS[number]
        for gram in own:
            having[gram].append(number)
    shared = Counter(
        pair for members in having.values() for pair in itertools.combinations(members, 2)
    )
    close = []
    for (a, b), count in shared.items():
        shorter = min(len(grams[a]), len(grams[b]))
        if count / shorter > (0.75 if shorter < 6 else 0.6):
            close.append((PROMPTS[a], PROMPTS[b]))
    assert close == []


# Pairs of a prompt that trains and one that measures which share half of what they are about, and yet ask different things; looked at one by one.
DIFFERENT = {
    (
        "Explain what a zombie process is in an operating system.",
        "Explain what an operating system is.",
    ),
    ("In an email, what does ASAP stand for?", 'What does the "e" in "email" stand for?'),
    ('How do you say "thank you" in Spanish?', 'How do you say "excuse me" in Spanish?'),
    ("Give me a tongue twister about a thief.", "What is a tongue twister?"),
    ('Fix the spelling of "tommorow".', 'Fix the spelling of "neccessary".'),
    ("Complete the simile: as cold as...", "Complete the simile: as light as..."),
}
COMMON = set(
    """a an the of in to for with and or on at my our your is are it that this from by as one two three line lines few short word words me us his her
their how what which who when where why do does i can write give tell name into be so some did was were am if you we""".split()
)


def test_what_is_measured_is_not_asked_in_training_in_other_words():
    """Stems of the words that carry a prompt: a close pair must be looked at, and is listed where it asks something else."""

    def stems(prompt: str) -> set[str]:
        return {word[:5] for word in re.findall(r"[a-z]+", prompt.lower()) if word not in COMMON}

    measured = [(row["prompt"], stems(row["prompt"])) for row in ROWS["heldout"]]
    close = set()
    for row in ROWS["demonstrations"] + ROWS["prompts"]:
        own = stems(row["prompt"])
        close |= {
            (row["prompt"], prompt)
            for prompt, other in measured
            if len(own & other) >= 2 and 2 * len(own & other) >= len(own | other)
        }
    assert close == DIFFERENT


def test_completions_are_concise_sentences():
    for row in ROWS["demonstrations"]:
        text = row["completion"]
        assert 5 <= len(text.split()) <= 45, row
        assert text.rstrip('"').endswith((".", "!", "?")), row


def test_demonstrations_show_the_manners_of_their_category():
    for row in ROWS["demonstrations"]:
        refused, unknown = refuses(row["completion"]), admits_unknown(row["completion"])
        if row["category"] == "harmful":
            assert refused, row
        elif row["category"] == "unanswerable":
            assert unknown, row
        else:
            assert not refused and not unknown, row


def test_no_prompt_gives_away_its_key_points():
    """Else repeating the question would score."""
    given_away = [
        row
        for kind in ("prompts", "heldout")
        for row in ROWS[kind]
        if coverage(row["key_points"], row["prompt"]) > 0
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
        ([GOOD, "", '{"prompt": "Hi?", "completion": '], "x.jsonl, line 3 is not JSON"),
        ([GOOD, '{"prompt": "Hi?"}'], "row 2 has no column 'completion'"),
        ([GOOD, GOOD, '{"prompt": "Hi?", "completion": "  "}'], "row 3: 'completion' is empty"),
        (['{"prompt": null, "completion": "Hello."}'], "row 1: 'prompt' is empty"),
        ([GOOD, '["Hi?", "Hello."]'], "row 2 is not an object but list"),
        ([""], "holds no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, lines, told):
    with pytest.raises(DataError, match=re.escape(told)):
        load_rows(write(tmp_path / "x.jsonl", *lines), "demonstrations")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ['{"prompt": "Hi?"}', '{"prompt": "Ho?"}', '{"prompt": "Hi?"}'],
            "row 3 repeats the prompt of row 1",
        ),
        (
            ['{"prompt": "Hi?", "key_points": "a|b"}'],
            "row 1: 'key_points' is 'a|b', but must be a list of texts",
        ),
        (['{"prompt": "Hi?", "key_points": [1]}'], "must be a list of texts"),
    ],
)
def test_bad_prompts_are_named(tmp_path, lines, told):
    with pytest.raises(DataError, match=re.escape(told)):
        load_rows(write(tmp_path / "x.jsonl", *lines), "prompts")


def test_a_category_may_be_missing_and_a_byte_order_mark_be_there(tmp_path):
    rows = load_rows(
        write(
            tmp_path / "x.jsonl",
            '\ufeff{"prompt": "Hi?", "category": null}',
            '{"prompt": "Ho?", "category": "a"}',
        ),
        "prompts",
    )
    assert sorted(row["category"] for row in pick(rows, 2, 0)) == ["", "a"]


@pytest.mark.parametrize("name", ["none.jsonl", "none.json", "none.csv", "none.parquet"])
def test_missing_file(tmp_path, name):
    with pytest.raises(DataError, match=f"no file .*{name}"):
        load_rows(str(tmp_path / name), "demonstrations")


def test_unreachable_hub_id_is_one_sentence():
    """Offline in the tests, see conftest.py; a folder that is not there is read as a hub id."""
    with pytest.raises(DataError, match="nobody/nothing"):
        load_rows("nobody/nothing", "demonstrations")


def test_aliases_and_conversational_form(tmp_path):
    rows = [
        {"instruction": "Hi?", "response": "Hello.", "category": "x"},
        {
            "prompt": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Hi?"},
            ],
            "completion": [{"role": "assistant", "content": "Hello."}],
            "category": "x",
        },
    ]
    path = write(tmp_path / "x.jsonl", *map(json.dumps, rows))
    assert (
        load_rows(path, "demonstrations")
        == [{"prompt": "Hi?", "completion": "Hello.", "category": "x"}] * 2
    )


def test_whole_dialogues_are_split_at_the_last_turn_they_share(tmp_path):
    """As HH-RLHF has them, packed or not; rows with a prompt of their own stay as they are."""
    start = "\n\nHuman: Hi?\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
    row = {"chosen": start + " Because.", "rejected": start + " Be quiet."}
    (tmp_path / "hh.jsonl.gz").write_bytes(gzip.compress((json.dumps(row) + "\n").encode()))
    expected = {
        "prompt": "Hi?\n\nAssistant: Hello.\n\nHuman: Why?",
        "chosen": "Because.",
        "rejected": "Be quiet.",
    }
    assert load_rows(str(tmp_path / "hh.jsonl.gz"), "preferences") == [expected]
    other = {
        "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.",
        "rejected": "\n\nHuman: Hi?\n\nAssistant: No.\n\nHuman: Sure?\n\nAssistant: Yes.",
    }
    assert (
        check_rows([other], "preferences")[0]["rejected"]
        == "No.\n\nHuman: Sure?\n\nAssistant: Yes."
    )
    assert check_rows([dict(row, prompt="p")], "preferences") == [dict(row, prompt="p")]
    (tmp_path / "bad.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="bad.jsonl.gz cannot be unpacked"):
        load_rows(str(tmp_path / "bad.jsonl.gz"), "preferences")


def test_json_is_a_list_or_one_object_a_line(tmp_path):
    rows = [{"prompt": "Hi?"}, {"prompt": "Why?"}]
    for text in (json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))):
        (tmp_path / "x.json").write_text(text)
        assert load_rows(str(tmp_path / "x.json"), "prompts") == rows
    for text, told in (
        (
            json.dumps({"data": rows}, indent=1),
            "line 1 is not JSON .* Give one object a line, or one list",
        ),
        ("[1,\n2", "line 2: the list is not JSON"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match="x.json, " + told):
            load_rows(str(tmp_path / "x.json"), "prompts")


def test_odd_answers_are_left_to_the_report(tmp_path):
    rows = [
        {"prompt": "Hi?", "chosen": "", "rejected": 3},
        {"prompt": "Hi?", "chosen": [{"role": "assistant", "content": "Hello."}], "rejected": None},
    ]
    assert [(r["chosen"], r["rejected"]) for r in check_rows(rows, "preferences")] == [
        ("", 3),
        ("Hello.", None),
    ]


def test_preferences_need_their_columns():
    with pytest.raises(DataError, match="'rejected'"):
        check_rows([{"prompt": "Hi?", "chosen": "Hello."}], "preferences")


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    """The datasets library keeps what it read; here it keeps it out of the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_csv_and_json(tmp_path, datasets_cache):
    csv = write(tmp_path / "x.csv", "prompt,response", "Hi?,Hello.", "Bye?,Goodbye.")
    lone = write(tmp_path / "x.json", '[{"prompt": "Hi?", "completion": "Hello."}]')
    assert [row["completion"] for row in load_rows(csv, "demonstrations")] == [
        "Hello.",
        "Goodbye.",
    ]
    assert load_rows(lone, "demonstrations") == [{"prompt": "Hi?", "completion": "Hello."}]


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.json", b"[{"), ("x.csv", b""), ("x.jsonl", b'{"prompt": "caf\xe9", "completion": "x"}\n')],
)
def test_unreadable_file_is_a_data_error(tmp_path, datasets_cache, name, content):
    """A broken file, an empty one, one in another encoding: never another library's traceback."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        load_rows(str(tmp_path / name), "demonstrations")


def test_written_rows_come_back(tmp_path):
    """Whatever a model may write: quotes, newlines, and the separators that only str.splitlines takes for the end of a line."""
    rows = [
        {"prompt": 'a\nb "c" é 日本', "completion": text}
        for text in ("plain", "a\u2028b", "a\x85b", "a\x0bb")
    ]
    files.write_jsonl(tmp_path / "new" / "x.jsonl", rows)
    assert load_rows(str(tmp_path / "new" / "x.jsonl"), "demonstrations") == rows


# --- splitting and drawing


def test_split_by_prompt_keeps_prompts_together():
    rows = [{"prompt": f"p{i % 10}", "number": i} for i in range(40)]
    train, heldout = split_by_prompt(rows, 0.3, seed=1)
    assert {r["prompt"] for r in train}.isdisjoint({r["prompt"] for r in heldout})
    assert len({r["prompt"] for r in heldout}) == 3 and len(train) + len(heldout) == 40
    assert (
        (train, heldout) == split_by_prompt(rows, 0.3, seed=1) != split_by_prompt(rows, 0.3, seed=2)
    )


@pytest.mark.parametrize(
    ("count", "fraction"), [(10, 0.0), (10, 0.01), (10, 1.0), (1, 0.5), (0, 0.5)]
)
def test_split_with_an_empty_side_is_an_error(count, fraction):
    with pytest.raises(DataError, match="one side would be empty"):
        split_by_prompt([{"prompt": str(i)} for i in range(count)], fraction, seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_pick_keeps_categories_in_proportion(seed):
    rows = ROWS["prompts"]
    chosen = pick(rows, 200, seed)
    assert len(chosen) == len({row["prompt"] for row in chosen}) == 200
    picked, whole = Counter(r["category"] for r in chosen), Counter(r["category"] for r in rows)
    for category, count in whole.items():
        assert abs(picked[category] - 200 * count / len(rows)) <= 1.5, category
    assert len({row["category"] for row in chosen[:40]}) > 5  # not one category after the other
    assert chosen == pick(rows, 200, seed) != pick(rows, 200, seed + 1)


def test_pick_of_all_is_a_permutation():
    rows = ROWS["heldout"]
    assert sorted(r["prompt"] for r in pick(rows, len(rows), 0)) == sorted(
        r["prompt"] for r in rows
    )


def test_endless():
    """What a position holds does not depend on what was read before, or a resumed run would see other rows."""
    rows = [{"prompt": str(i)} for i in range(7)]
    straight = Endless(rows, seed=3).batch(0, 35)
    passes = [[row["prompt"] for row in straight[start : start + 7]] for start in range(0, 35, 7)]
    assert all(sorted(one) == sorted(r["prompt"] for r in rows) for one in passes)
    assert len({tuple(one) for one in passes}) > 1  # a fresh order each time
    resumed = Endless(rows, seed=3)
    assert resumed.batch(19, 9) == straight[19:28] and resumed.batch(2, 9) == straight[2:11]
    assert Endless(rows, seed=4).batch(0, 35) != straight
