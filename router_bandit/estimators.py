"""What another policy would have earned, from logged choices (off-policy evaluation). Pure functions of arrays.

N logged choices. The intervals are the normal approximation: honest for thousands of rows with bounded weights,
too narrow for few or heavy-tailed ones.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean reward per choice, with the interval that covers it at the asked confidence."""

    mean: float
    low: float
    high: float
    effective_rows: float
    """(sum w)^2 / sum w^2 (Kish): how many rows of equal weight would be as good."""


def ips(p_log: ArrayLike, p_new: ArrayLike, reward: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Inverse propensity score (Horvitz & Thompson 1952): mean of p_new / p_log * reward. Unbiased.

    Args:
        p_log: [N] probability that the logging policy gave the plan it chose.
        p_new: [N] probability that the judged policy gives that plan.
        reward: [N] what the choice earned.

    Raises ValueError if lengths differ, there are under 2 rows, or a probability is not usable, naming the row.
    """
    w, r = _weights_and_rewards(p_log, p_new, reward)
    terms = w * r
    return _estimate(float(terms.mean()), float(terms.std(ddof=1)), w, confidence)


def snips(p_log: ArrayLike, p_new: ArrayLike, reward: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Self-normalized IPS (Swaminathan & Joachims 2015): sum w * reward / sum w, with w = p_new / p_log.

    Slightly biased, of much less variance than `ips`, and never outside the rewards' range. The interval is by the
    delta method. Arguments and errors as `ips`; and ValueError if all weights are 0.
    """
    w, r = _weights_and_rewards(p_log, p_new, reward)
    if not w.sum() > 0:
        raise ValueError("the judged policy never does what was logged (all weights are 0): nothing can be said of it")
    mean = float((w * r).sum() / w.sum())
    residuals = w * (r - mean) / w.mean()
    return _estimate(mean, float(np.sqrt((residuals**2).sum() / (len(w) - 1))), w, confidence)


def _weights_and_rewards(p_log: ArrayLike, p_new: ArrayLike, reward: ArrayLike) -> tuple[Vector, Vector]:
    logged, new, r = (np.asarray(a, dtype=np.float64) for a in (p_log, p_new, reward))
    if not (logged.ndim == 1 and logged.shape == new.shape == r.shape and len(r) >= 2):
        raise ValueError(f"want three vectors of the same length >= 2, got {logged.shape}, {new.shape}, {r.shape}")
    _refuse_first(~((logged > 0) & (logged <= 1)), "p_log", "in (0, 1]", logged)
    _refuse_first(~((new >= 0) & (new <= 1)), "p_new", "in [0, 1]", new)
    _refuse_first(~np.isfinite(r), "reward", "finite", r)
    return new / logged, r


def _refuse_first(bad: NDArray[np.bool_], name: str, want: str, values: Vector) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{name} must be {want}, got {values[row]} in row {row}")


def _estimate(mean: float, deviation: float, w: Vector, confidence: float) -> Estimate:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    half = NormalDist().inv_cdf((1 + confidence) / 2) * deviation / len(w) ** 0.5
    squares = float((w**2).sum())
    return Estimate(mean, mean - half, mean + half, float(w.sum()) ** 2 / squares if squares > 0 else 0.0)
