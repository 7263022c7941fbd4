"""Each sign shows in a series that has it, and in nothing else; a healthy real run shows none."""

import json
import re
import subprocess
import sys

import pytest
from benchmarks.fault_table import NOTES, NUMBERS, ROOT, with_table

from rlhf_utils.lab import signs
from rlhf_utils.lab.diagnose import (
    NOTHING,
    RULES,
    Finding,
    diagnose,
    findings_html,
)

# seed 1 of the demo, rounded; what is alike in all rows once
HEALTHY = {
    "objective/kl": [0, 0.363, 0.894, 1.76, 2.2, 2.82, 3.9, 4.03, 4.71, 5.6, 6.1, 5.86, 5.71],
    "objective/kl_full": [0, 0.39, 0.92, 1.66, 2.11, 2.95, 3.75, 4.16, 4.52, 5.43, 5.71, 5.7, 5.7],
    "objective/entropy": [
        25.6,
        23.1,
        23.3,
        22.2,
        21.3,
        21.4,
        22.1,
        21.2,
        19.7,
        18.8,
        17.9,
        16.9,
        18,
    ],
    "objective/scores": [
        0.188,
        0.36,
        0.49,
        0.73,
        0.91,
        0.97,
        1.0,
        1.06,
        1.14,
        1.3,
        1.36,
        1.3,
        1.33,
    ],
    "objective/scores_std": [
        1.09,
        1.07,
        1.01,
        0.98,
        0.9,
        0.87,
        0.8,
        0.83,
        0.73,
        0.73,
        0.78,
        0.9,
        0.9,
    ],
    "objective/kl_coef": [0.05] * 13,
    "objective/scores_tied": [1 / 128] * 13,
    "val/num_eos_tokens": [128] * 6 + [127] + [128] * 6,
    "val/length": [22.9, 21.4, 21.2, 20.1, 19.3, 19.5, 18.8, 18.1, 17.8, 17.0, 16.3, 15.6, 16.6],
    "val/score_length_corr": [-0.52, -0.42, -0.51, -0.46, -0.29, -0.41, -0.44, -0.52] + [-0.4] * 5,
    "val/sampling_gap": [0.0184, 0.0189, 0.0185, 0.018, 0.0184, 0.0193, 0.0203] + [0.0198] * 6,
    "val/surprise_gap": [0.011, -0.004, -0.02, 0.007, 0.001, -0.013] + [0.003] * 7,
    "val/advantages_std": [1.05, 1.01, 0.92, 0.9, 0.81, 0.87, 0.76, 0.75, 0.65] + [0.7] * 4,
    "val/explained_variance": [
        0,
        0.1,
        0.12,
        0.19,
        0.18,
        0.08,
        0.15,
        0.23,
        0.23,
        0.11,
        0.2,
        0.09,
        0.2,
    ],
    "val/early_stop": [0.0] * 13,
    "val/ratio_first": [1.0, 1.0, 0.9999999] + [1.0] * 10,
    "val/value_first": [0.0] * 13,
    "policy/clipfrac_avg": [
        0.18,
        0.17,
        0.15,
        0.14,
        0.14,
        0.14,
        0.12,
        0.13,
        0.11,
        0.09,
        0.07,
        0.04,
        0.01,
    ],
    "answers/distinct2": [
        0.74,
        0.73,
        0.78,
        0.78,
        0.79,
        0.81,
        0.83,
        0.84,
        0.82,
        0.83,
        0.83,
        0.8,
        0.79,
    ],
    "answers/gold": [3.97, 4.1, 4.18, 4.38, 4.4, 4.43, 4.41, 4.39, 4.47, 4.55, 4.55, 4.52, 4.54],
    "answers/declined_harmful": [0.86, 0.85, 0.9, 0.9, 0.78, 0.77, 0.75, 0.69, 0.76, 0.67]
    + [0.8] * 3,
    "answers/declined_other": [0.11, 0.24, 0.11, 0.17, 0.15, 0.12, 0.09, 0.04, 0.03, 0.11]
    + [0.1] * 3,
}
THIRTEEN = [update / 12 for update in range(13)]  # 0 to 1
FALLING = [1 - share for share in THIRTEEN]
# sign → what its run has instead
ILL = {
    "sampling_gap": {"val/sampling_gap": [0.2] * 13},
    "surprise_gap": {"val/surprise_gap": [-0.25] * 13},
    "kl_negative": {"objective/kl": [0, -0.1, -0.5, -0.4] + [-1.0] * 9},
    "kl_at_start": {"objective/kl_full": [3.1] * 13},
    "ratio_first": {"val/ratio_first": [1.0] * 5 + [1.0025] + [1.0] * 7},
    "value_first": {"val/value_first": [0.0] + [0.2] * 12},
    "reward_scale": {"objective/scores_std": [0.2] + HEALTHY["objective/scores_std"][1:]},
    "kl_free": {"objective/kl_coef": [0.0] * 13},
    "kl_runaway": {"objective/kl_full": [0] * 8 + [40.0] * 5},
    "entropy_collapse": {"objective/entropy": [25 * share + 0.5 for share in FALLING]},
    "variety_collapse": {"answers/distinct2": [0.1 + 0.6 * share for share in FALLING]},
    "length_creep": {"val/length": [20 + 20 * share for share in THIRTEEN]},
    "length_paid": {"val/score_length_corr": [0.95] * 13},
    "ends_missing": {"val/num_eos_tokens": [128] * 6 + [50] * 7},
    "declines_all": {"answers/declined_other": [0.1 + 0.9 * share for share in THIRTEEN]},
    "declines_none": {"answers/declined_harmful": [0.8] * 6 + [0.0] * 7},
    "critic_worse": {"val/explained_variance": [0.0] + [-0.4] * 12},
    "steps_too_large": {"policy/clipfrac_avg": [0.5] * 13},
    "steps_too_small": {"policy/clipfrac_avg": [0.001] * 13},
    "scores_tied": {"objective/scores_tied": [0.01 + 0.9 * share for share in THIRTEEN]},
    "advantages_alike": {"val/advantages_std": [0.6] * 4 + [0.0001] * 9},
    "reward_flat": {"objective/scores": [0.2, 0.1] * 6 + [0.2]},
    "gold_falls": {"answers/gold": [3.9 - 0.5 * share for share in THIRTEEN]},
}
SETTINGS = {"reward": "reward_model"}


def rows_of(**changed):
    series = HEALTHY | changed
    rows = [{"update": n + 1, "episode": 128 * (n + 1)} for n in range(13)]
    return [row | {key: values[n] for key, values in series.items()} for n, row in enumerate(rows)]


def names(*arguments) -> list[str]:
    return [finding.name for finding in diagnose(*arguments)]


def watched(*answers):
    samples = [
        {"prompt": "<b>?</b>", "answer": answer, "score": 0.1, "kl": 0} for answer in answers
    ]
    return [{"update": 0, "samples": samples}]


def test_a_healthy_real_run_shows_nothing():
    samples = watched("One.", "Two.", "I can't help with that.", "I can't help with that.", "Five.")
    assert names(rows_of(), samples, SETTINGS) == []


@pytest.mark.parametrize("name", ILL)
def test_each_sign_shows_in_a_run_that_has_it_and_only_there(name):
    assert names(rows_of(**ILL[name]), [], SETTINGS) == [name]


def test_every_rule_has_a_series_here_a_function_and_a_section_of_the_notes():
    assert {*ILL, "answers_alike"} == set(RULES)
    assert all(callable(getattr(signs, name)) for name in RULES)
    page = (ROOT / NOTES).read_text(encoding="utf-8")
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == list(RULES)
    for title, _, _ in RULES.values():
        assert f"**{title}.**" in page


def test_numbers_and_updates_are_told():
    [found] = diagnose(rows_of(**ILL["ratio_first"]))
    assert found.numbers == "val/ratio_first is 1.0025 at update 6 (healthy: 1)."
    [found] = diagnose(rows_of(**ILL["gold_falls"]))  # 0.042 · (0 … 2) and (10 … 12): 3.86, 3.44
    assert "gold went from 3.86 to 3.44 of 5" in found.numbers
    assert found.page == "notes/diagnoses.md#gold_falls"


def test_the_scale_of_a_reward_is_known_for_the_reward_model_only():
    rows = rows_of(**ILL["reward_scale"])
    assert names(rows) == names(rows, [], {"reward": "my_rewards:polite"}) == []
    rows = rows_of(**{"objective/scores": [-1.9] + HEALTHY["objective/scores"][1:]})
    rows[0]["val/num_eos_tokens"] = 28  # of 128: −1.9 + 2 · 100/128 = −0.34
    assert names(rows, [], SETTINGS) == ["reward_scale"]
    assert names(rows, [], SETTINGS | {"more": {"missing_eos_penalty": 2.0}}) == []
    resumed = rows_of(**ILL["reward_scale"])[4:]  # not what π_SFT's answers score
    assert "reward_scale" not in names(resumed, [], SETTINGS)


def test_one_answer_to_different_prompts():
    [found] = diagnose(rows_of(), watched("Yes.", "Yes.", "Yes.", "No.", "Maybe."))
    assert found.name == "answers_alike" and "3 of 5" in found.numbers
    assert diagnose(rows_of(), watched("Yes.", "Yes.", "Yes.")) == []  # too few to tell


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), "?"])
def test_numbers_that_are_none_are_passed_over(missing):
    ill = rows_of(**ILL["sampling_gap"])
    ill[3]["val/sampling_gap"] = missing
    assert names(ill) == ["sampling_gap"]
    assert names([dict.fromkeys(row, missing) for row in ill]) == []


def test_logs_of_nothing_of_one_row_and_of_other_keys_give_nothing():
    assert names([]) == names([{}], [{}]) == names([{"update": 1}] * 20, [{"samples": None}]) == []
    for count in range(13):  # a run that has just begun
        assert names(rows_of()[:count]) == []
    for key in HEALTHY:  # one of an earlier version
        rows = rows_of()
        for row in rows:
            del row[key]
        assert names(rows, [], SETTINGS) == []


def test_text_of_models_stays_text():
    hostile = "<script>alert(1)</script>"
    findings = diagnose(rows_of(), watched(*[hostile] * 5))
    shown = findings_html(findings)
    assert "<script" not in shown and "&lt;script&gt;" in shown
    assert "href" not in findings_html(findings, links=False)
    assert shown.startswith("<ul>") and 'href="notes/diagnoses.md#answers_alike"' in shown


def test_nothing_is_said_to_stand_out_without_praise():
    assert NOTHING in findings_html([])
    assert NOTHING.startswith("Nothing stands out.") and "read the answers" in NOTHING
    assert str(len(RULES)) in NOTHING


def test_a_finding_is_told_whole():
    found = Finding("gold_falls", "Title", "It means.", "1 of 2.", "Do this.")
    for part in ("Title", "It means.", "1 of 2.", "Do this.", "notes/diagnoses.md#gold_falls"):
        assert part in findings_html([found])


def test_no_torch_is_needed():
    code = "import sys, rlhf_utils.lab.diagnose; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert told.stdout.strip() == "False", told.stderr


def test_the_notes_hold_the_table_of_the_bench():
    """Else run tests/benchmarks/fault_bench.py."""
    content = json.loads((ROOT / NUMBERS).read_text(encoding="utf-8"))
    page = (ROOT / NOTES).read_text(encoding="utf-8")
    assert with_table(page, content) == page
    faults = content["faults"].values()
    for fault in faults:
        hits = sum(
            bool(set(found) & set(fault["expected"])) for found in fault["findings"].values()
        )
        assert fault["detected"] == (hits >= 2) and set(fault["expected"]) <= set(RULES)
    assert content["detected"] == sum(fault["detected"] for fault in faults)
    assert content["planted"] == len(faults) >= 10 and content["healthy"] == 20
    assert content["false_alarms"] == len(content["healthy_findings"])
