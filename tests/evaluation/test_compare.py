"""The numbers of the evaluation, against small cases worked out by hand."""

import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest

from rlhf_utils.data.rows import UNSEEN_TOPICS, Prompt
from rlhf_utils.errors import PPOError
from rlhf_utils.evaluation import compare
from rlhf_utils.preferences.rubric import GOLD_WEIGHTS, gold_score, rubric
from rlhf_utils.show.comparison import two_judges
from rlhf_utils.show.text import headline
from rlhf_utils.stats import wilson

PROMPTS = [
    Prompt("h1", "harmful"),
    Prompt("h2", "harmful"),
    Prompt("b", "benign_lookalike", ["four"]),
    Prompt("u", "unanswerable"),
]
BEFORE = ["Take a knife.", "I can't help with that.", "It is four.", "It was Anna."]
AFTER = [
    "I won't help with that.",
    "I can't help with that.",
    "Sorry, I can't say.",
    "I don't know that.",
]


def compared(times: int = 1) -> list[compare.Comparison]:
    """π_SFT's answers beside π_RLHF's; more than once, with a number behind each prompt."""
    prompts = [
        Prompt(f"{p.text}{n}", p.category, p.key_points) for n in range(times) for p in PROMPTS
    ]
    count = len(prompts)
    sft = compare.score_answers(prompts, BEFORE * times, [0.0] * count)
    ppo = compare.score_answers(prompts, AFTER * times, [1.0] * count, [1.0, 2.0, 3.0, 6.0] * times)
    return [compare.Comparison(*pair) for pair in zip(sft, ppo)]


def pair_of(prompt: Prompt, before: str, after: str, rewards=(0.0, 1.0)) -> compare.Comparison:
    answers = (before, after)
    return compare.Comparison(
        *(compare.ScoredAnswer(prompt, *row, kl=1.0) for row in zip(answers, rewards))
    )


def test_win_rate_ties_count_half():
    rate, (low, high) = compare.win_rate([2, -2, 0, 0], list("abcd"))
    assert rate == 0.5 and low < 0.5 < high
    assert compare.win_rate([1, 1], ["a", "b"]) == (1.0, wilson(2, 2))
    assert compare.win_rate([0, 0], ["a", "b"]) == (0.5, wilson(1, 2))


def test_a_gain_of_rounding_alone_is_a_tie():
    """Sums of weights differ in the last digit, and one text's reward from batch to batch."""
    prompt = Prompt("p", "world", ["four"])
    same = pair_of(prompt, "It is four.", "It is four.", (0.5, 0.500001))
    assert (same.gain, same.gain_by("reward")) == (0, 0)
    other = pair_of(prompt, "It is four.", "It was four.", (0.5, 0.500001))
    assert other.gain == 0 and other.gain_by("reward") == pytest.approx(1e-6)
    other.ppo.gold += 1e-12
    assert other.gain == 0


def test_distinct_n_by_hand():
    texts = ["The cat, the cat.", "a cat"]
    assert compare.distinct_n(texts, 1) == 3 / 6  # the, cat, a
    # the cat ×2, cat the, a cat; none across texts
    assert compare.distinct_n(texts, 2) == 3 / 4
    assert compare.distinct_n(["one two three four"], 2) == 1
    assert math.isnan(compare.distinct_n(["one", ""], 2)) and math.isnan(compare.distinct_n([], 1))


def test_an_answer_carries_its_prompt_and_its_scores():
    answers = [pair.ppo for pair in compared()]
    assert [answer.prompt.text for answer in answers] == ["h10", "h20", "b0", "u0"]
    assert [answer.refuses for answer in answers] == [True, True, True, False]
    assert [answer.words for answer in answers] == [5, 5, 4, 4]
    for answer in answers:
        assert answer.gold == gold_score(answer.prompt, answer.answer)
        assert answer.parts == rubric(answer.prompt, answer.answer)
    with pytest.raises(ValueError):
        compare.score_answers(PROMPTS, BEFORE, [0.0] * 3)  # a reward that is missing


def test_rows_for_samples_jsonl():
    pair = compared()[2]
    row = json.loads(json.dumps(pair.sft.row("sft")))
    parts = dict.fromkeys(GOLD_WEIGHTS, 1) | {"brevity": 0.5}
    assert row == parts | {
        "policy": "sft",
        "prompt": "b0",
        "category": "benign_lookalike",
        "answer": "It is four.",
        "gold": pytest.approx(5 - 0.5 * GOLD_WEIGHTS["brevity"]),
        "refuses": False,
        "filler": False,
        "unseen": False,
        "words": 3,
        "reward": 0.0,
        "kl": None,
        "reward_model": None,
    }
    assert pair.ppo.row("ppo")["kl"] == 3.0
    (unasked,) = compare.score_answers([PROMPTS[0]], ["Great question! No."])
    row = unasked.row("base")
    assert (row["reward"], row["kl"], row["filler"], row["directness"]) == (None, None, True, 0)


def test_compare():
    pairs = compared()
    results = compare.compare(pairs)
    # won, the same, refused for nothing, honest
    assert results["eval.win_rate_vs_sft"] == (1 + 0.5 + 0 + 1) / 4
    # the same answer is a tie whatever its rewards say
    assert results["eval.win_rate_reward_model"] == (1 + 0.5 + 1 + 1) / 4
    outcomes = [results[f"eval.{name}"] for name in ("wins", "ties", "losses")]
    assert outcomes == [0.5, 0.25, 0.25]
    outcomes = [results[f"eval.{name}_reward_model"] for name in ("wins", "ties", "losses")]
    assert outcomes == [0.75, 0.25, 0]
    assert results["eval.kl"] == 3 and results["eval.prompts"] == 4
    assert (results["eval.refusal_harmful_sft"], results["eval.refusal_harmful_ppo"]) == (0.5, 1)
    assert (results["eval.refusal_benign_sft"], results["eval.refusal_benign_ppo"]) == (0, 1)
    assert (results["eval.refusal_ordinary_sft"], results["eval.refusal_ordinary_ppo"]) == (0, 1)
    assert results["eval.length_sft"] == (3 + 5 + 3 + 3) / 4
    assert (results["eval.reward_sft"], results["eval.reward_ppo"]) == (0, 1)
    for policy in ("sft", "ppo"):
        gold = np.mean([getattr(pair, policy).gold for pair in pairs])
        total = sum(
            weight * results[f"eval.{part}_{policy}"] for part, weight in GOLD_WEIGHTS.items()
        )
        assert results[f"eval.gold_{policy}"] == pytest.approx(gold) == pytest.approx(total)
    low, high = results["eval.win_rate_ci"]
    assert low < results["eval.win_rate_vs_sft"] < high
    assert results["eval.win_rate_reward_model_ci"][1] == 1


def test_the_two_judges_count_apart():
    """By gold: better (no filler), worse, the same; by the reward model: the same, worse, worse."""
    prompt = Prompt("p", "world", ["four"])
    pairs = [
        pair_of(prompt, "Great question! It is four.", "It is surely the number four.", (1, 1)),
        pair_of(prompt, "It is surely the number four.", "No idea at all, my dear.", (1, 0)),
        pair_of(prompt, "It is surely the number four.", "It is the number four, surely.", (1, 0)),
    ]
    results = compare.compare(pairs)
    for judge, outcomes in (("", (1, 1, 1)), ("_reward_model", (0, 1, 2))):
        for name, count in zip(("wins", "ties", "losses"), outcomes):
            assert results[f"eval.{name}{judge}"] == pytest.approx(count / 3), (name, judge)
    assert results["eval.win_rate_vs_sft"] == pytest.approx(0.5)
    assert results["eval.win_rate_reward_model"] == pytest.approx(0.5 / 3)


UNSEEN = {"topic": UNSEEN_TOPICS[0]}
ASKED = [
    Prompt("h", "harmful", columns={"topic": "theft"}),
    Prompt("hu", "harmful", columns=UNSEEN),
    Prompt("b", "benign_lookalike", ["four"]),
    Prompt("bu1", "benign_lookalike", ["four"], columns=UNSEEN),
    Prompt("bu2", "benign_lookalike", ["four"], columns=UNSEEN),
    Prompt("u", "unanswerable"),
    Prompt("o", "world", ["four"]),
]
DECLINES, FOUR, GREAT = "I can't help with that.", "It is four.", "Great question! It is four."
SAID = [DECLINES, GREAT, DECLINES, FOUR, DECLINES, DECLINES, GREAT]


def test_shares_of_filler_of_refusals_and_of_openings_by_hand():
    answers = compare.score_answers(ASKED, SAID, [0.0] * 7)
    found = compare.measure(pd.DataFrame([answer.row("sft") for answer in answers]))
    assert found["filler"] == pytest.approx(2 / 7) == pytest.approx(1 - found["directness"])
    assert (found["refusal_harmful"], found["refusal_harmful_unseen"]) == (1 / 2, 0)
    assert (found["refusal_benign"], found["refusal_benign_unseen"]) == (2 / 3, 1 / 2)
    assert found["refusal_ordinary"] == 2 / 4, "of all that is harmless"
    assert found["openings"] == 3 / 7  # I can't help, it is four, great question! it
    assert found["length"] == pytest.approx((4 * 5 + 3 + 2 * 5) / 7)


def test_openings_are_the_first_three_words():
    assert compare.distinct_openings(["It is four, yes.", "it is four, no.", "It is"]) == 2 / 3
    assert compare.distinct_openings(["a", "b"]) == 1
    assert compare.distinct_openings([]) == 0


def test_manners_by_hand():
    gold = [compare.ScoredAnswer(*both).gold for both in zip(ASKED, SAID)]
    assert compare.manners(ASKED, SAID) == {
        "gold": pytest.approx(sum(gold) / 7),
        "gold_std": pytest.approx(statistics.pstdev(gold)),
        "distinct2": compare.distinct_n(SAID, 2),
        "declined": pytest.approx(4 / 7),
        "filler": pytest.approx(2 / 7),
        "words": pytest.approx(33 / 7),
        "declined_harmful": 1 / 2,
        "declined_lookalike": 2 / 3,
        "declined_other": 1 / 2,
    }
    nothing_harmful = compare.manners(ASKED[2:5], SAID[2:5])
    assert math.isnan(nothing_harmful["declined_harmful"])
    assert math.isnan(nothing_harmful["declined_other"])
    assert nothing_harmful["declined_lookalike"] == 2 / 3
    with pytest.raises(ValueError):
        compare.manners(ASKED, SAID[1:])


def test_groups_before_and_after():
    pairs = [pair_of(prompt, said, DECLINES) for prompt, said in zip(ASKED, SAID)]
    rows = {row.pop("prompts"): row for row in compare.by_group(pairs)}
    assert {name: row["number"] for name, row in rows.items()} == {
        "harmful": 1,
        "harmful, unseen topic": 1,
        "look-alike": 1,
        "look-alike, unseen topic": 2,
        "ordinary": 1,
        "unanswerable": 1,
    }
    unseen = rows["look-alike, unseen topic"]
    assert unseen["declined"] == "50% → 100%" and unseen["words"] == "4.0 → 5.0"
    assert rows["ordinary"]["filler"] == "100% → 0%"
    before, after = (gold_score(ASKED[6], text) for text in (GREAT, DECLINES))
    assert rows["ordinary"]["gold"] == f"{before:.2f} → {after:.2f}"


def test_a_rate_without_prompts_is_unknown():
    results = compare.compare([pair for pair in compared() if pair.prompt.category != "harmful"])
    assert math.isnan(results["eval.refusal_harmful_sft"])
    assert results["eval.refusal_benign_ppo"] == 1


def test_examples_show_every_category_and_the_failures():
    examples = compare.examples(compared(), count=3)
    categories = {pair.prompt.category for pair in examples[:3]}
    assert categories == {"harmful", "benign_lookalike", "unanswerable"}
    assert [pair.prompt.text for pair in examples if pair.gain < 0] == ["b0"]
    many = compare.examples(compared(20), count=4)
    assert len(many) == 6 and all(pair.gain < 0 for pair in many[4:])
    same = [compare.Comparison(pair.sft, pair.sft) for pair in compared(20)]
    assert len(compare.examples(same, count=4)) == 4  # nothing became worse, nothing is added
    assert compare.examples(compared(20), seed=1) != compare.examples(compared(20), seed=2)


# --- judges

PLAIN = [Prompt(f"p{n}", columns={"answer": str(n)}) for n in range(3)]


def own_reward(by_reward_model=(None, None), prompts=PLAIN) -> list[compare.Comparison]:
    """Three prompts that a function of the user's own judged, with 03's model beside it or not."""
    before, after = by_reward_model
    sft = compare.score_answers(prompts, ["No"] * 3, [0, 0, 1], None, before)
    ppo = compare.score_answers(prompts, ["Yes"] * 3, [1, 0, 0], [0.5] * 3, after)
    return compare.pair_up(sft, ppo)


def test_the_reward_that_paid_ppo_judges_where_the_rubric_knows_nothing():
    pairs = own_reward()
    results = compare.compare(pairs, paid_by="my_rewards:polite")
    outcomes = [results[f"eval.{kind}_reward"] for kind in ("wins", "ties", "losses")]
    assert outcomes == pytest.approx([1 / 3] * 3) and [pair.gain for pair in pairs] == [1, 0, -1]
    assert results["eval.reward_sft"] == results["eval.reward_ppo"] == pytest.approx(1 / 3)
    assert not [name for name in results if "gold" in name or "reward_model" in name]
    assert "eval.wins" not in results and "eval.helpfulness_ppo" not in results
    assert compare.by_group(pairs) == [
        {
            "prompts": "ordinary",
            "number": 3,
            "reward": "0.33 → 0.33",
            "declined": "0% → 0%",
            "filler": "0% → 0%",
            "words": "1.0 → 1.0",
        }
    ]


def test_gold_and_the_model_of_03_judge_beside_it():
    asked = [Prompt(f"p{n}", "world", ["yes"]) for n in range(3)]
    pairs = own_reward(([3, 3, 3], [2, 2, 2]), asked)
    results = compare.compare(pairs, paid_by="my_rewards:polite")
    assert results["eval.wins"] == 1  # "Yes" is the key point
    assert results["eval.wins_reward"] == pytest.approx(1 / 3)
    assert results["eval.losses_reward_model"] == 1
    assert results["eval.reward_model_sft"] == 3 and results["eval.reward_model_ppo"] == 2
    titles = [annotation.text for annotation in two_judges(results).layout.annotations]
    told = [text.partition("<br>")[0] for text in titles if text.startswith("by ")]
    assert told == ["by the gold rubric", "by PPO's reward", "by the reward model"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_prompts_give_numbers_and_no_error(count):
    prompts = [Prompt(f"p{n}", "harmful") for n in range(count)]
    sft = compare.score_answers(prompts, [""] * count, [0.0] * count)
    ppo = compare.score_answers(
        prompts, ["I can't help with that."] * count, [1.0] * count, [1.0] * count
    )
    results = compare.compare(compare.pair_up(sft, ppo))
    assert results["eval.wins"] == results["eval.refusal_harmful_ppo"] == 1
    assert math.isnan(results["eval.refusal_benign_ppo"])
    low, high = results["eval.win_rate_ci"]
    assert 0 <= low < 1 == high
    assert len(compare.examples(compare.pair_up(sft, ppo))) == count


def test_every_batch_has_every_column_and_each_judge_gives_a_number_for_each_answer():
    prompts = [Prompt("a"), Prompt("b", columns={"level": 3}), Prompt("c")]
    seen = []

    def judge(prompts, completions, level, **columns):
        seen.append((prompts, completions, level))
        return [float(part or 0) for part in level]

    found = compare.ask_judges({"reward": judge}, prompts, ["x", "y", "z"], size=2)
    assert found == {"reward": [0.0, 3.0, 0.0]}
    assert seen == [(["a", "b"], ["x", "y"], [None, 3]), (["c"], ["z"], [None])]
    with pytest.raises(PPOError, match="one finite number for each of 2 answers"):
        compare.ask_judges({"reward": lambda **asked: [1.0]}, prompts, ["x", "y", "z"], size=2)


def test_results_are_told_in_sentences_and_the_scale_in_rows():
    lines = compare.told(compare.compare(own_reward(), paid_by="my_rewards:polite"))
    assert lines[0].startswith("by PPO's reward: 33% wins, 33% ties, 33% losses (wins and half of")
    assert lines[1] == "reward 0.33 → 0.33; KL 0.5 nats an answer" and len(lines) == 2
    pairs = compared()
    answers = {"ppo": [pair.ppo for pair in pairs], "sft": [pair.sft for pair in pairs]}
    first, second = compare.scale(answers)
    assert (first["who"], second["who"]) == ("π_SFT", "π_RLHF") and "gold of 5" in first
    assert first["“h10”"] == BEFORE[0] and first["with filler"] == "0%"
    (row,) = compare.scale({"sft": [pair.sft for pair in own_reward()]})
    assert list(row) == ["who", "with filler", "“p0”"]


def test_where_a_language_has_no_spaces_each_character_counts():
    prompt = Prompt("植物怎样喝水", "science", ["根"])
    answer = compare.ScoredAnswer(prompt, "植物用根吸收水分。", 0.0, None)
    assert answer.words == 9  # the full stop counts, too, as it does at the end of an English word
    assert compare.distinct_n(["植物植物"], 2) == pytest.approx(2 / 3)
    assert compare.distinct_n(["Plants drink, plants drink."], 2) == pytest.approx(2 / 3)


def test_the_headline_holds_five_numbers_whoever_judges():
    by_gold = headline(compare.compare(compared()))
    assert [words for words, _ in by_gold[:5]] == [
        "wins / ties / losses of π_RLHF, by the gold rubric",
        "gold score, of 5",
        "answers with filler",
        "harmful prompts declined",
        "all harmless prompts declined (lower is better)",
    ]
    assert by_gold[3][1] == "50% → 100%"
    own = headline(compare.compare(own_reward(), paid_by="my_rewards:polite"))
    assert own[0] == ("wins / ties / losses of π_RLHF, by PPO's reward", "33% / 33% / 33%")
    assert own[1] == ("reward that PPO was paid", "0.33 → 0.33") and len(own) >= 5
    assert headline({}) == []
