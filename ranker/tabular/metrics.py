"""How good predictions of 0 and 1 are: AUC, log loss, normalized entropy."""

from dataclasses import dataclass

import numpy as np

from ranker.arrays import F64
from ranker.grades import log_loss


@dataclass(frozen=True, slots=True)
class Grades:
    """Quality of one file's predictions."""

    auc: float | None
    """None where the labels are of one class."""
    logloss: float
    """Mean, in nats; predictions are taken as no surer than 1e-6."""
    normalized_entropy: float | None
    """Log loss over that of the mean label (He et al., 2014): 1 is what the best constant reaches."""


def grade(label_N: F64, predicted_N: F64) -> Grades:
    """Labels are 0 or 1, of at least one row."""
    count, rate = len(label_N), float(label_N.mean())
    loss = log_loss(label_N, predicted_N.astype(np.float32)) / count
    if rate in (0.0, 1.0):
        return Grades(None, loss, None)
    entropy = log_loss(label_N, np.full(count, rate, np.float32)) / count
    return Grades(auc(label_N, predicted_N), loss, loss / entropy)


def auc(label_N: F64, predicted_N: F64) -> float:
    """The share of pairs of a positive and a negative that are in the right order, ties counting half.

    By the rank sum of the positives (Mann & Whitney, 1947). Both classes must be there.
    """
    _, inverse_N, count = np.unique(predicted_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(count) - (count - 1) / 2)[inverse_N]
    positive_N = label_N > 0.5
    positives = int(positive_N.sum())
    pairs = positives * (len(label_N) - positives)
    return float((rank_N[positive_N].sum() - positives * (positives + 1) / 2) / pairs)
