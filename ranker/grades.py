"""Grading predictions before learning from their labels: log losses, and normalized entropy over them."""

# N impressions.

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from ranker.arrays import F32, F64, I64

SUREST = 1e-6
"""Predictions are graded as no surer than this, so that one cannot outweigh all others."""
PRIOR_LABELS = 20
"""Labels that a configured prior counts as."""
RECENT_LABELS = 20_000
"""Labels that a base rate which follows the time remembers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSums:
    """Sums over the same labels: log losses (natural logarithm) of several predictions, and what was predicted."""

    count: int = 0
    positives: float = 0.0
    predicted: float = 0.0
    """Probabilities as served: over the positives, how calibrated they were."""
    served: float = 0.0
    """Loss of the predictions as served."""
    base: float = 0.0
    """Loss of the base rate of all labels before."""
    frozen: float | None = None
    """Loss of the frozen copy, where there is one."""

    @property
    def normalized_entropy(self) -> float | None:
        """Loss of the served predictions over the base rate's (He et al., 2014). None without labels."""
        return self.served / self.base if self.base > 0 else None

    @property
    def calibration(self) -> float | None:
        """Positives predicted over those that came; None where none came."""
        return self.predicted / self.positives if self.positives > 0 else None


class BaseRate:
    """The mean of all labels so far, or of the newest, and of some that it begins with."""

    def __init__(self, prior: float = 0.5, prior_labels: float = 1.0, memory: float = math.inf) -> None:
        """prior: mean of the labels that it begins with, as many as prior_labels. memory: most labels that count; the
        older ones fade."""
        self.count, self.positives = 0.0, 0.0
        self._prior, self._prior_labels, self._memory = prior, prior_labels, memory

    @property
    def mean(self) -> float:
        return (self.positives + self._prior_labels * self._prior) / (self.count + self._prior_labels)

    def observe(self, label_N: F32) -> None:
        known_N = label_N[~np.isnan(label_N)]
        self.count += len(known_N)
        self.positives += float(known_N.sum(dtype=np.float64))
        if self.count > self._memory:
            self.positives *= self._memory / self.count
            self.count = self._memory


@dataclass(frozen=True, slots=True)
class Compared:
    """The labels [n] of one kind, what was served for them, and what two references would have served."""

    label_n: F64
    served_n: F64
    reference_n: F64
    elder_n: F64
    """Predictions of the reference before it; where there is none, the reference's."""
    shown_ms_n: I64
    """Event time at which each labelled impression was looked at."""

    @classmethod
    def of(cls, parts: "Sequence[Compared]") -> "Compared":
        nothing = np.empty(0)
        none = Compared(nothing, nothing, nothing, nothing, np.empty(0, np.int64))
        joined = [np.concatenate([getattr(p, f.name) for p in (none, *parts)]) for f in fields(cls)]
        return cls(*joined)

    def take(self, which_n: npt.NDArray[np.bool_]) -> "Compared":
        return Compared(*(getattr(self, f.name)[which_n] for f in fields(self)))


def compare(label_N: F32, served_N: F32, reference_N: F32, elder_N: F32, shown_ms_N: I64) -> Compared:
    """Sets predictions beside their labels, leaving out those without one (nan)."""
    known_N = ~np.isnan(label_N)
    columns = (label_N, served_N, reference_N, elder_N)
    label_n, served_n, reference_n, elder_n = (x_N[known_N].astype(np.float64) for x_N in columns)
    return Compared(label_n, served_n, reference_n, elder_n, shown_ms_N[known_N].astype(np.int64))


def grade(label_N: F32, served_N: F32, frozen_N: F32 | None, base: BaseRate) -> LossSums:
    """Labels in [0, 1], nan where there is none; predictions are probabilities [N]."""
    known_N = ~np.isnan(label_N)
    labels = label_N[known_N].astype(np.float64)
    return LossSums(
        count=len(labels),
        positives=float(labels.sum()),
        predicted=float(served_N[known_N].sum(dtype=np.float64)),
        served=log_loss(labels, served_N[known_N]),
        base=log_loss(labels, np.full(len(labels), base.mean, np.float32)),
        frozen=log_loss(labels, frozen_N[known_N]) if frozen_N is not None else None,
    )


def log_losses(label_n: npt.NDArray[np.floating], predicted_n: npt.NDArray[np.floating]) -> F64:
    """[n] -(y ln p + (1 - y) ln(1 - p)): nats.

    A label between 0 and 1 is the probability of a 1, and the loss the one to expect. Predictions are taken as no surer
    than 1e-6.
    """
    p_n = np.clip(predicted_n.astype(np.float64), SUREST, 1 - SUREST)
    loss_n: F64 = -(label_n * np.log(p_n) + (1 - label_n) * np.log1p(-p_n))
    return loss_n


def log_loss(label_n: npt.NDArray[np.floating], predicted_n: npt.NDArray[np.floating]) -> float:
    """Sum of the log losses, in nats."""
    return float(log_losses(label_n, predicted_n).sum())


def entropies(rate_n: npt.NDArray[np.floating]) -> F64:
    """[n] nats: what a coin of each probability is to expect who knows it."""
    return log_losses(rate_n, rate_n)
