"""How good predicted probabilities are, with intervals."""

from dataclasses import dataclass

import numpy as np

from ranker.arrays import F64, I64
from ranker.grades import entropies, log_losses

Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def midranks(values: F64) -> F64:
    """[n] ranks from 1, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: F64 = (ends - (counts - 1) / 2)[inverse]
    return ranks


def delong(labels: F64, scores_KN: F64) -> tuple[F64, F64]:
    """AUCs of K scores of the same N examples, and their K × K covariance.

    DeLong, DeLong & Clarke-Pearson 1988, by the midranks of Sun & Xu 2014. It takes examples as independent. Raises
    ValueError unless there are two of each label at least: there is no variance then.
    """
    positive = labels > 0.5
    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        raise ValueError(f"an AUC with an interval needs 2 positives and 2 negatives, got {m} and {n}")
    all_KN = np.stack([midranks(scores) for scores in scores_KN])
    positive_KM = np.stack([midranks(scores[positive]) for scores in scores_KN])
    negative_KN = np.stack([midranks(scores[~positive]) for scores in scores_KN])
    aucs: F64 = (all_KN[:, positive].sum(axis=1) / m - (m + 1) / 2) / n
    by_positive = (all_KN[:, positive] - positive_KM) / n
    by_negative = 1 - (all_KN[:, ~positive] - negative_KN) / m
    covariance = np.atleast_2d(np.cov(by_positive)) / m + np.atleast_2d(np.cov(by_negative)) / n
    return aucs, covariance


def auc_interval(labels: F64, scores: F64) -> Interval:
    aucs, covariance = delong(labels, scores[None])
    half = Z95 * float(np.sqrt(covariance[0, 0]))
    return Interval(float(aucs[0]), float(aucs[0]) - half, float(aucs[0]) + half)


def auc_difference(labels: F64, ours: F64, theirs: F64) -> Interval:
    """AUC of `ours` minus that of `theirs`, paired."""
    aucs, covariance = delong(labels, np.stack([ours, theirs]))
    half = Z95 * float(np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    difference = float(aucs[0] - aucs[1])
    return Interval(difference, difference - half, difference + half)


@dataclass(frozen=True, slots=True)
class Entropies:
    """Normalized entropies of several predictors over the same examples, resampled together."""

    values_K: F64
    samples_KR: F64
    """Normalized entropies of R bootstrap resamples."""

    def interval(self, k: int) -> Interval:
        return _percentiles(float(self.values_K[k]), self.samples_KR[k])

    def difference(self, ours: int, theirs: int) -> Interval:
        """Returns that of `ours` minus that of `theirs`, paired; below zero: `ours` is better."""
        value = float(self.values_K[ours] - self.values_K[theirs])
        return _percentiles(value, self.samples_KR[ours] - self.samples_KR[theirs])


def normalized_entropies(
    labels: F64, predicted_KN: F64, clusters: I64, *, resamples: int = 1000, seed: int = 0
) -> Entropies:
    """Mean log loss over the entropy of the mean label (He et al. 2014): 1 is what the best constant reaches.

    clusters: [N] small integers; whole clusters (users) are resampled, since examples of one user are not
    independent. Raises ValueError where all labels are the same: there is nothing to normalize by.
    """
    rate = labels.mean()
    if rate in (0.0, 1.0):
        raise ValueError(f"normalized entropy needs both labels, got {len(labels)} of {rate:.0f}")
    losses_KN = np.stack([log_losses(labels, p) for p in predicted_KN])
    number = int(clusters.max()) + 1

    def by_cluster(values: F64) -> F64:
        return np.bincount(clusters, weights=values, minlength=number).astype(np.float64)

    # [K + 2, clusters]: losses of each predictor, positives, examples.
    sums = np.stack(
        [*(by_cluster(losses) for losses in losses_KN), by_cluster(labels), by_cluster(np.ones(len(labels)))]
    )
    rng = np.random.default_rng(seed)
    samples = np.empty((len(losses_KN), resamples))
    for r in range(resamples):
        *losses, positives, examples = sums @ np.bincount(rng.integers(0, number, number), minlength=number)
        samples[:, r] = np.array(losses) / examples / entropies(np.array(positives / examples))
    return Entropies(losses_KN.mean(axis=1) / entropies(rate), samples)


def _percentiles(value: float, samples: F64) -> Interval:
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(value, float(low), float(high))
