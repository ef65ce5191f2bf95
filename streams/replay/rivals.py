"""What a good engineer would build of a log in an afternoon: Vowpal Wabbit with crosses, boosted trees on counts.

Both are optional: without their package they are left out.
"""

# n examples, F columns.

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import log1p
from typing import Any

import numpy as np

from ranker.arrays import F64
from ranker.config import ITEM, USER, ModelConfig
from streams.datasets.logs.traffic import FeatureMap, LoggedImpression
from streams.replay.baselines import BaseRate, Schedule, progressive

VW_OPTIONS = "--loss_function logistic --link logistic -b 22 -q ug -q if --quiet"
"""u: the user's id; i: the item's; g: what is known of the item; f: of the user; c: of the request."""
REFIT_EVERY = 5_000
FIRST_FITS = (500, 1_000, 2_000)
PRIOR = 10.0
"""Examples at the base rate that a mean is smoothed by."""


class VowpalWabbit:
    """A linear model of ids and features, and of crosses of the user with the item's features and the item with the
    user's."""

    def __init__(self, prior: float) -> None:
        """prior: what it says before the first label; it would say one half. (As a constant to start from it makes
        this model worse, also where clicks are rare.) Raises ImportError without vowpalwabbit."""
        from vowpalwabbit import Workspace

        self._vw: Any = Workspace(VW_OPTIONS)
        self._prior: float | None = prior

    def predict(self, row: LoggedImpression) -> float:
        return float(self._vw.predict(self.line(row))) if self._prior is None else self._prior

    def learn(self, row: LoggedImpression) -> None:
        self._prior = None
        self._vw.learn(("1" if row.clicked else "-1") + self.line(row))

    def line(self, row: LoggedImpression) -> str:
        """What it is told of a row."""
        return line(row)


def line(row: LoggedImpression) -> str:
    parts = [f" |u {_word('u', row.user)} |i {_word('i', row.item)} "]
    for space, features in (("f", row.user_features), ("g", row.item_features), ("c", row.context)):
        parts.append(f"|{space} " + " ".join(_words(features or {})) + " ")
    return "".join(parts)


def _words(features: FeatureMap) -> Iterator[str]:
    for name, value in features.items():
        if isinstance(value, float):
            yield f"{_word('', name)}:{np.sign(value) * log1p(abs(value)):.6g}"
        else:
            yield from (_word(name, one) for one in values_of(value))


def _word(name: str, value: str) -> str:
    return f"{name}={value}".translate(_SEPARATORS)


_SEPARATORS = str.maketrans(dict.fromkeys(" |:\t\n\r", "_"))


def vowpal_wabbit(rows: Sequence[LoggedImpression], schedule: Schedule, model: ModelConfig) -> F64:
    """[n] predictions. Raises ImportError without vowpalwabbit."""
    return progressive(VowpalWabbit(model.click_prior), rows, schedule)


def boosted_trees(rows: Sequence[LoggedImpression], schedule: Schedule, model: ModelConfig) -> F64:
    """[n] predictions of trees that are fitted anew to all that is known each REFIT_EVERY labels.

    Columns are counts and smoothed means as they stood when each example was predicted (see AsOf). Before the first
    fit: the base rate. Raises ImportError without scikit-learn.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    columns = AsOf(model)
    columns_nF = np.empty((len(rows), columns.width))
    learned = 0
    for i in np.argsort(schedule.known_n, kind="stable"):
        while learned < schedule.known_n[i]:
            columns.learn(rows[schedule.order_n[learned]])
            learned += 1
        columns_nF[i] = columns.of(rows[i])
    click_n = np.array([row.clicked for row in rows])
    predicted_n = progressive(BaseRate(model.click_prior), rows, schedule)
    fits = [*FIRST_FITS, *range(REFIT_EVERY, len(rows), REFIT_EVERY)]
    for known, until in zip(fits, [*fits[1:], len(rows) + 1], strict=True):
        graded_n = (schedule.known_n >= known) & (schedule.known_n < until)
        taught = schedule.order_n[:known]
        if not graded_n.any() or len(set(click_n[taught])) < 2:
            continue
        trees = HistGradientBoostingClassifier(
            learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=100, early_stopping=False, random_state=0
        )
        trees.fit(columns_nF[taught], click_n[taught])
        predicted_n[graded_n] = trees.predict_proba(columns_nF[graded_n])[:, 1]
    return predicted_n


class AsOf:
    """Columns of a row by what was learned so far: of each category, and of the pairs of the user and each category of
    the item, the mean and the logarithm of the count; numbers as they are; the hour.

    Of several values in a slot, their mean.
    """

    def __init__(self, model: ModelConfig) -> None:
        self._categories = [slot.name for slot in model.slots if slot.kind == "categorical"]
        self._numbers = [slot.name for slot in model.slots if slot.kind == "numeric"]
        self._of_item = [slot.name for slot in model.side("candidate", "categorical") if slot.name != ITEM]
        self._base = BaseRate(model.click_prior)
        self._sums: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.width = 2 * len(self._categories) + 2 * len(self._of_item) + len(self._numbers)

    def of(self, row: LoggedImpression) -> list[float]:
        """[F]."""
        values = _of_row(row)
        found: list[float] = []
        base = self._base.predict(row)
        for keys in self._keys(row, values):
            sums = [self._sums.get(key, (0.0, 0.0)) for key in keys]
            means = [(clicks + PRIOR * base) / (count + PRIOR) for clicks, count in sums]
            found += [sum(means) / max(len(means), 1), log1p(sum(count for _, count in sums) / max(len(sums), 1))]
        return [*found, *(_number(values.get(name)) for name in self._numbers)]

    def learn(self, row: LoggedImpression) -> None:
        self._base.learn(row)
        for keys in self._keys(row, _of_row(row)):
            for key in keys:
                sums = self._sums[key]
                sums[0] += row.clicked
                sums[1] += 1

    def _keys(self, row: LoggedImpression, values: FeatureMap) -> Iterator[list[tuple[str, ...]]]:
        for name in self._categories:
            yield [(name, value) for value in values_of(values.get(name, ""))]
        for name in self._of_item:
            yield [(USER, name, row.user, value) for value in values_of(values.get(name, ""))]


def _of_row(row: LoggedImpression) -> FeatureMap:
    own: FeatureMap = {USER: row.user, ITEM: row.item, "hour": str(row.event_ms // 3_600_000 % 24)}
    return {**(row.user_features or {}), **(row.item_features or {}), **(row.context or {}), **own}


def values_of(value: object) -> list[str]:
    """Categories of a feature."""
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
