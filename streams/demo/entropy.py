"""Normalized entropy of the live model beside its frozen copy, from the sums of losses in update headers."""

# U updates.

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z_95 = 1.96


@dataclass(frozen=True, slots=True)
class StepLosses:
    """Sums over one update's labels of a kind: losses (nats) of several predictions of them, and what was predicted."""

    created_ms: int
    count: float
    positives: float
    predicted: float
    served: float
    base: float
    frozen: float | None
    """None before there is a frozen copy."""

    @classmethod
    def of(cls, created_ms: int, grades: Mapping[str, float], kind: str = "click") -> "StepLosses | None":
        """From an update's grades; None where it learned no label of this kind, click or conversion."""
        if not grades.get(f"{kind}.count"):
            return None
        return cls(
            created_ms,
            count=grades[f"{kind}.count"],
            positives=grades[f"{kind}.positives"],
            predicted=grades.get(f"{kind}.predicted", math.nan),  # unknown of a trainer of before this field
            served=grades[f"{kind}.served"],
            base=grades[f"{kind}.base"],
            frozen=grades.get(f"{kind}.frozen"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Entropies:
    """Losses over the entropy of the labels' own mean (He et al., 2014): 1 is what knowing that mean brings, lower is
    better."""

    labels: int
    live: float
    """Normalized entropy of the predictions as served."""
    base: float
    """Normalized entropy of the base rate of all labels before."""
    frozen: float | None
    """Normalized entropy of the frozen copy, on the same labels; None where it did not predict all of them."""
    difference_95: tuple[float, float] | None
    """Bounds of live minus frozen. Below zero: what was learned since the freeze made predictions better."""


def calibration(steps: list[StepLosses]) -> float | None:
    """Positives predicted over those that came; None where none came."""
    positives = sum(s.positives for s in steps)
    return sum(s.predicted for s in steps) / positives if positives else None


def entropies(steps: list[StepLosses]) -> Entropies | None:
    """Returns entropies over all labels of these updates; None without both positive and negative labels.

    The interval is that of a ratio estimator with updates as its clusters: labels of one update are not independent.
    """
    count, positives = sum(s.count for s in steps), sum(s.positives for s in steps)
    if not 0 < positives < count:
        return None
    rate = positives / count
    scale = -count * (rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
    frozen = [s.frozen for s in steps if s.frozen is not None]
    paired = len(frozen) == len(steps)
    return Entropies(
        labels=round(count),
        live=sum(s.served for s in steps) / scale,
        base=sum(s.base for s in steps) / scale,
        frozen=sum(frozen) / scale if paired else None,
        difference_95=_interval(steps, np.array(frozen), scale) if paired and len(steps) > 1 else None,
    )


def _interval(steps: list[StepLosses], frozen_U: npt.NDArray[np.float64], scale: float) -> tuple[float, float]:
    gain_U = np.array([s.served for s in steps]) - frozen_U
    count_U = np.array([s.count for s in steps])
    residual_U = gain_U - gain_U.sum() / count_U.sum() * count_U
    half = Z_95 * math.sqrt(len(steps) / (len(steps) - 1) * float((residual_U**2).sum()))
    return (float(gain_U.sum()) - half) / scale, (float(gain_U.sum()) + half) / scale
