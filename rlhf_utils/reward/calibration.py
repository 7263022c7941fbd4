"""Calibration: is a reward model as sure as it is right? And the temperature that makes it so."""

import numpy as np
from scipy.optimize import minimize_scalar

from ..stats import correct


def fit_temperature(margins) -> float:
    """T > 0 that makes σ(margin/T) most likely on labelled pairs (Guo 2017, arXiv 1706.04599).

    Fit it on other pairs than those that judge the model. The likelihood is concave in 1/T; its
    maximum is sought between T = 1/100 and T = 100.
    """
    margins = np.asarray(margins, dtype=float)

    def loss(log_t: float) -> float:
        return np.logaddexp(0, -margins * np.exp(-log_t)).mean()

    limit = np.log(100)
    found = minimize_scalar(loss, bounds=(-limit, limit), options={"xatol": 1e-9})
    return float(np.exp(found.x))


def calibration(margins, bins: int = 8) -> dict:
    """How sure the model is, σ(|margin|), and how often it is right, in bins of equal count.

    `ece` is the expected calibration error Σ_bins (share of pairs)·|mean confidence − accuracy|
    (Naeini 2015; Guo 2017, arXiv 1706.04599); NaN without pairs.
    """
    margins = np.asarray(margins, dtype=float)
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    right = correct(margins)
    rows, ece = [], 0.0 if len(margins) else float("nan")
    for few in np.array_split(np.argsort(confidence, kind="stable"), bins):
        if not len(few):
            continue
        sure, accuracy = float(confidence[few].mean()), float(right[few].mean())
        rows.append({"confidence": sure, "accuracy": accuracy, "count": len(few)})
        ece += len(few) / len(margins) * abs(sure - accuracy)
    return {"ece": ece, "bins": rows}
