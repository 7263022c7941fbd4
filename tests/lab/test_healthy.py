"""The healthy range: the least and the greatest of the seeds, shown only where runs are alike."""

import pytest
from benchmarks import healthy_band

from rlhf_utils.errors import DataError
from rlhf_utils.files import read_json, write_json
from rlhf_utils.lab import healthy
from rlhf_utils.show import panel

DEFAULTS = {stage: {} for stage in healthy.STAGES}  # the notebooks' own fill them


def rows(*scores, batch: int = 8, **more) -> list[dict]:
    found = []
    for number, score in enumerate(scores, 1):
        row = {"update": number, "episode": batch * number, "objective/scores": score}
        found.append(row | more | {"time/sample_s": 1.0})
    return found


def test_the_range_is_from_least_to_greatest_at_each_update():
    runs = [rows(1, 2), rows(0, 5), rows(0.5, 3.14159, **{"answers/gold": 4})]
    assert healthy_band.ranges(runs) == {
        "episodes": [8, 16],
        "ranges": {"objective/scores": [[0, 2], [1, 5]]},  # no gold: two runs lack it; no time
    }


def test_runs_of_other_batches_have_no_range():
    with pytest.raises(DataError, match="2, 3 updates"):
        healthy_band.ranges([rows(1, 2), rows(1, 2, 3)])
    with pytest.raises(DataError, match="batch size"):
        healthy_band.ranges([rows(1, 2), rows(1, 2, batch=16)])


def test_the_demo_has_its_range():
    band = healthy.healthy_band(DEFAULTS)
    assert band["seeds"] == [0, 1, 2] and len(band["episodes"]) == 13
    assert {"objective/scores", "answers/declined_harmful"} <= set(band["ranges"])
    assert set(band["ranges"]) <= set(panel.KEYS)
    for lows, highs in band["ranges"].values():
        assert len(lows) == len(highs) == 13
        assert all(low <= high for low, high in zip(lows, highs))
    assert healthy.healthy_file().stat().st_size < 10_000


@pytest.mark.parametrize(
    ("stage", "other"),
    [
        ("ppo", {"learning_rate": 0.01}),
        ("ppo", {"more": {"lam": 0.95}}),
        ("sft", {"model": "tiny"}),
        ("preferences", {"annotator": "person"}),
        ("reward_model", {"ensemble": 1}),
    ],
)
def test_another_run_has_none(stage, other):
    assert healthy.healthy_band(DEFAULTS | {stage: other}) is None


def test_seed_and_name_may_differ_and_a_stage_that_was_not_run_may_not():
    free = {"run": "mine", "seed": 9, "resume": True, "dtype": "float32"}
    assert healthy.healthy_band(DEFAULTS | {"ppo": free, "reward_model": {"whatif_answers": 0}})
    assert healthy.healthy_band({"ppo": {}, "sft": {}}) is None


def test_a_parameter_that_is_younger_than_the_range_has_its_default(tmp_path, monkeypatch):
    found = read_json(healthy.healthy_file())
    del found["parameters"]["ppo"]["kl_coef"]
    write_json(tmp_path / "healthy.json", found)
    monkeypatch.setattr(healthy, "healthy_file", lambda: tmp_path / "healthy.json")
    assert healthy.healthy_band(DEFAULTS)
    assert healthy.healthy_band(DEFAULTS | {"ppo": {"kl_coef": 0.5}}) is None
    monkeypatch.setattr(healthy, "healthy_file", lambda: tmp_path / "nothing.json")
    assert healthy.healthy_band(DEFAULTS) is None
