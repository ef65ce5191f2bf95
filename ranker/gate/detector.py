"""Sequential tests of labels against predictions that were made before: is the model worse, are the labels strange?

Each label y, 0 or 1, adds the logarithm of an e-value: of a number that is 1 in expectation, or less, as long as all is
well. The sum starts again whenever it falls below 0 (Page, 1954), and once it has reached ln(labels) the test speaks: a
detector that is wrong at most once in so many labels (Shin, Ramdas and Rinaldo, 2024, "E-detectors").

    worse      t · (ln p_ref(y) − ln p_live(y)) − slack
               the reference explains the labels better than the live model: a likelihood ratio, tempered by t
    strange    t · (−ln p_ref(y)) − ln(p_ref^(1−t) + (1 − p_ref)^(1−t)) − slack
               the labels have a larger loss than the reference's own predictions let one expect; the second term is
               the exact cumulant of that loss under them

    slack = t · tolerance · H(p), H the entropy: what drift may explain, as a share of the loss.

A large t is quick about what is very wrong, a small one patient about what is a little wrong.
"""

# n labels in order of time.

from dataclasses import dataclass, field

import numpy as np

from ranker.arrays import F64, I64
from ranker.grades import SUREST, entropies, log_losses

QUICK, PATIENT = 0.5, 0.125
"""Values of t. Never 1: labels of one response are no independent draws."""


def worse(y_n: F64, live_n: F64, reference_n: F64, tolerance: float, temper: float = QUICK) -> F64:
    """[n] addends; live_n and reference_n are probabilities of a 1."""
    gained_n = log_losses(y_n, live_n) - log_losses(y_n, reference_n)
    return temper * (gained_n - tolerance * entropies(live_n))


def strange(y_n: F64, reference_n: F64, tolerance: float, temper: float = QUICK) -> F64:
    """[n] addends."""
    p_n = np.clip(reference_n, SUREST, 1 - SUREST)
    cumulant_n = np.log(p_n ** (1 - temper) + (1 - p_n) ** (1 - temper))
    return temper * (log_losses(y_n, p_n) - tolerance * entropies(p_n)) - cumulant_n


@dataclass(slots=True)
class Detector:
    """Adds up one test's addends."""

    labels_between_false_alarms: float
    level: float = 0.0
    """The sum now, in nats."""
    since_ms: int = 0
    """Event time since which the level has been above 0; what it has found began then or later."""
    evidence_k: F64 = field(default_factory=lambda: np.zeros(0))
    """Sums of what came with the addends since then: for people to see."""

    @property
    def threshold(self) -> float:
        return float(np.log(self.labels_between_false_alarms))

    @property
    def suspicious(self) -> bool:
        """Half way: nothing that is good for certain should be made now."""
        return self.level > self.threshold / 2

    def add(self, addends_n: F64, event_ms_n: I64, evidence_nk: F64 | None = None) -> bool:
        """Whether it speaks; it then stays where it spoke, until `reset`."""
        if not len(addends_n):
            return self.level >= self.threshold
        if self.level == 0:
            self.since_ms = int(event_ms_n[0])
        path_n = self.level + np.cumsum(addends_n)
        floor_n = np.minimum.accumulate(np.minimum(path_n, 0.0))
        level_n = path_n - floor_n
        spoke = np.flatnonzero(level_n >= self.threshold)
        end = int(spoke[0]) if len(spoke) else len(level_n) - 1
        zeros = np.flatnonzero(level_n[: end + 1] == 0)
        if len(zeros):
            self.since_ms = int(event_ms_n[zeros[-1]])
        self.level = float(level_n[end])
        if evidence_nk is not None:
            begin = int(zeros[-1]) + 1 if len(zeros) else 0
            before_k = self.evidence_k if len(self.evidence_k) and not len(zeros) else np.zeros(evidence_nk.shape[1])
            self.evidence_k = before_k + evidence_nk[begin : end + 1].sum(axis=0)
        return bool(len(spoke))

    def reset(self) -> None:
        self.level, self.evidence_k = 0.0, np.zeros(0)
