"""What a model must beat: predictors of a few lines that learn from the same labels, as soon as and no sooner."""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Protocol

import numpy as np

from ranker.arrays import F64


@dataclass(frozen=True, slots=True)
class Graded:
    """One click example: what was predicted when, and what became known when."""

    user: str
    item: str
    label: float
    predicted: float
    event_ms: int
    """Event time of the request."""
    label_ms: int
    """When the label became known, in event time."""


class Predictor(Protocol):
    def predict(self, user: str, item: str) -> float:
        """Probability of a click."""
        ...

    def learn(self, user: str, item: str, label: float) -> None: ...


class BaseRate:
    """The share of clicks so far, beginning with one click in two."""

    def __init__(self) -> None:
        self._clicks, self._count = 1.0, 2.0

    def predict(self, user: str, item: str) -> float:
        return self._clicks / self._count

    def learn(self, user: str, item: str, label: float) -> None:
        self._clicks += label
        self._count += 1


class RunningMeans:
    """Means of the user and of the item so far, added as log-odds above the base rate.

    A mean is smoothed by `weight` examples at the base rate, so an unknown user or item says nothing; by more where
    clicks are rare, so that these hold `clicks` of them: else a first click would make a rate of a tenth.
    """

    def __init__(self, weight: float = 10.0, clicks: float = 2.0) -> None:
        self._weight = weight
        self._clicks = clicks
        self._base = BaseRate()
        self._sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])

    def predict(self, user: str, item: str) -> float:
        base = self._base.predict(user, item)
        x = _logit(base)
        x += sum(_logit(self._mean(key, base)) - _logit(base) for key in (("user", user), ("item", item)))
        return 1 / (1 + exp(-x))

    def learn(self, user: str, item: str, label: float) -> None:
        self._base.learn(user, item, label)
        for key in (("user", user), ("item", item)):
            self._sums[key][0] += label
            self._sums[key][1] += 1

    def _mean(self, key: tuple[str, str], base: float) -> float:
        clicks, count = self._sums.get(key, (0.0, 0.0))
        weight = max(self._weight, self._clicks / base)
        return (clicks + weight * base) / (count + weight)


def progressive(predictor: Predictor, examples: Sequence[Graded]) -> F64:
    """[n]: what the predictor says of each example, having learned the labels known before its request.

    Delayed progressive validation (Grzenda et al. 2020): examples are taken in the order of their requests, and a
    label is learned once its time is over, so nothing is known here that was not known when the model served.
    """
    predicted = np.empty(len(examples))
    waiting: list[tuple[int, int]] = []
    for i in sorted(range(len(examples)), key=lambda i: examples[i].event_ms):
        example = examples[i]
        while waiting and waiting[0][0] < example.event_ms:
            known = examples[heapq.heappop(waiting)[1]]
            predictor.learn(known.user, known.item, known.label)
        predicted[i] = predictor.predict(example.user, example.item)
        heapq.heappush(waiting, (example.label_ms, i))
    return predicted


def _logit(p: float) -> float:
    return log(p / (1 - p))
