"""Calibration and temperature, by hand and against labels whose truth is known."""

import math

import numpy as np
import pytest

from rlhf_utils.reward.calibration import calibration, fit_temperature


def test_calibration_by_hand():
    """Confidences of 0.6, 0.6, 0.9, 0.9 in two bins: half right where 0.6 sure, all where 0.9."""
    low, high = math.log(0.6 / 0.4), math.log(0.9 / 0.1)
    found = calibration([high, -low, high, low], bins=2)
    bins = [(round(b["confidence"], 6), b["accuracy"], b["count"]) for b in found["bins"]]
    assert bins == [(0.6, 0.5, 2), (0.9, 1, 2)]
    assert found["ece"] == pytest.approx(0.5 * abs(0.6 - 0.5) + 0.5 * abs(0.9 - 1))


def test_bins_weigh_by_their_count():
    margins = [math.log(c / (1 - c)) for c in (0.6, 0.7, 0.8)]
    found = calibration([margins[0], margins[1], -margins[2]], bins=2)  # two pairs, then one
    assert found["ece"] == pytest.approx(2 / 3 * abs(0.65 - 1) + 1 / 3 * abs(0.8 - 0))
    more_bins_than_pairs = calibration(margins, bins=8)["bins"]
    assert sum(b["count"] for b in more_bins_than_pairs) == 3
    assert calibration([])["bins"] == [] and math.isnan(calibration([])["ece"])


def test_calibrated_margins_have_a_small_error():
    rng = np.random.default_rng(0)
    size = np.abs(rng.normal(0, 2, 20000))
    right = rng.random(20000) < 1 / (1 + np.exp(-size))
    margins = np.where(right, size, -size)
    assert calibration(margins)["ece"] < 0.015
    assert calibration(margins * 5)["ece"] > 0.1  # too sure


def test_temperature_undoes_a_scale():
    """Margins five times as large need T = 5, and the loss is least there."""
    rng = np.random.default_rng(0)
    size = rng.normal(0, 2, 20_000)
    margins = np.where(rng.random(20_000) < 1 / (1 + np.exp(-size)), size, -size)
    for scale in (1.0, 5.0, 0.2):
        assert fit_temperature(margins * scale) == pytest.approx(scale, rel=0.05)
    best = fit_temperature(margins)

    def loss(t):
        return np.log1p(np.exp(-margins / t)).mean()

    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))


@pytest.mark.parametrize(
    ("margins", "edge"),
    [([1.0, 2.0], 0.01), ([-1.0, -2.0], 100.0), ([1e6, 1e6, -1e6], 100.0), ([0.0, 0.0], None)],
)
def test_temperature_stays_finite(margins, edge):
    found = fit_temperature(margins)
    assert 0.0099 < found < 100.1
    assert edge is None or found == pytest.approx(edge)
