"""What a model must beat: predictors of a few lines that learn from the same labels, as soon as and no sooner.

Delayed progressive validation (Grzenda et al. 2020): each example is predicted by what was learned from the labels that
were known by then. When they were known is a schedule's to say: as soon as their time was over, as soon as the model
had learned them, or a fixed number of examples later. Before the first of them all say what the model says then, its
prior: where labels are few or late, that is much of what is graded.
"""

# n examples, in the order of their requests.

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Protocol

import numpy as np

from ranker.arrays import F64, I64
from ranker.grades import PRIOR_LABELS
from streams.datasets.logs.traffic import LoggedImpression


@dataclass(frozen=True, slots=True)
class Schedule:
    """When labels became known."""

    order_n: I64
    """Places of the examples in the order in which their labels became known."""
    known_n: I64
    """How many of these were known when each example was predicted; never its own."""

    @property
    def lag_n(self) -> I64:
        """How many of the examples before each were not known."""
        lag_n: I64 = np.arange(len(self.known_n)) - self.known_n
        return lag_n


def known_after(examples: int, later: int, step: int = 1) -> Schedule:
    """Labels are learned in steps of `step`, once `later` further examples were predicted; 0: before the next is."""
    places = np.arange(examples)
    return Schedule(places, np.maximum(places // step * step - later, 0))


def known_at(asked: Sequence[int], known: Sequence[int]) -> Schedule:
    """By two times of each example, of its prediction and of its label. Of the same time, the prediction is first."""
    asked_n, known_at_n = np.array(asked, np.int64), np.array(known, np.int64)
    order_n = np.argsort(known_at_n, kind="stable")
    return Schedule(order_n, np.searchsorted(known_at_n[order_n], asked_n, side="left"))


class Predictor(Protocol):
    def predict(self, row: LoggedImpression) -> float:
        """Probability of a click."""
        ...

    def learn(self, row: LoggedImpression) -> None: ...


def progressive(predictor: Predictor, rows: Sequence[LoggedImpression], schedule: Schedule) -> F64:
    """[n]: what the predictor says of each row, having learned the labels that were known by then."""
    predicted_n, learned = np.empty(len(rows)), 0
    for i in np.argsort(schedule.known_n, kind="stable"):
        while learned < schedule.known_n[i]:
            predictor.learn(rows[schedule.order_n[learned]])
            learned += 1
        predicted_n[i] = predictor.predict(rows[i])
    return predicted_n


class BaseRate:
    """The share of clicks so far, beginning with the prior that the model begins with, which counts as much."""

    def __init__(self, prior: float) -> None:
        self._clicks, self._count = prior * PRIOR_LABELS, float(PRIOR_LABELS)

    def predict(self, row: LoggedImpression) -> float:
        return self._clicks / self._count

    def learn(self, row: LoggedImpression) -> None:
        self._clicks += row.clicked
        self._count += 1


class RunningMeans:
    """Means of the user and of the item so far, added as log-odds above the base rate.

    A mean is smoothed by `weight` examples at the base rate, so an unknown user or item says nothing; by more where
    clicks are rare, so that these hold `clicks` of them: else a first click would make a rate of a tenth.
    """

    def __init__(self, prior: float, weight: float = 10.0, clicks: float = 2.0) -> None:
        self._weight = weight
        self._clicks = clicks
        self._base = BaseRate(prior)
        self._sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])

    def predict(self, row: LoggedImpression) -> float:
        base = self._base.predict(row)
        x = _logit(base)
        x += sum(_logit(self._mean(key, base)) - _logit(base) for key in (("user", row.user), ("item", row.item)))
        return 1 / (1 + exp(-x))

    def learn(self, row: LoggedImpression) -> None:
        self._base.learn(row)
        for key in (("user", row.user), ("item", row.item)):
            self._sums[key][0] += row.clicked
            self._sums[key][1] += 1

    def _mean(self, key: tuple[str, str], base: float) -> float:
        clicks, count = self._sums.get(key, (0.0, 0.0))
        weight = max(self._weight, self._clicks / base)
        return (clicks + weight * base) / (count + weight)


def _logit(p: float) -> float:
    return log(p / (1 - p))
