"""A linear model that reads the user's log as soon as the model does: Vowpal Wabbit with crosses, and counts beside."""

# n impressions.

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import log, log1p

from ranker.arrays import F64
from ranker.config import ModelConfig
from ranker.grades import PRIOR_LABELS
from streams.datasets.logs.traffic import LoggedImpression
from streams.replay.baselines import Schedule, progressive
from streams.replay.rivals import VowpalWabbit, line, values_of

_PRIOR = 10.0
"""Impressions that the prior counts as."""


class _Counting(VowpalWabbit):
    """The same model; of each row, the counts of its user's log are told besides."""

    def __init__(self, prior: float, counts: dict[int, str]) -> None:
        super().__init__(prior)
        self._counts = counts

    def line(self, row: LoggedImpression) -> str:
        return line(row) + self._counts[id(row)]


def vowpal_wabbit_with_counts(rows: Sequence[LoggedImpression], schedule: Schedule, model: ModelConfig) -> F64:
    """[n] predictions; weights learn each label when the schedule says, counts have each event at once.

    Counts are of the user's impressions and clicks before this moment: of all, of the same item, and of each category
    that the item has; smoothed log-odds and the logarithm of how many.
    """
    return progressive(_Counting(model.click_prior, _counts(rows, model.click_prior)), rows, schedule)


def _counts(rows: Sequence[LoggedImpression], prior: float) -> dict[int, str]:
    """Features by row. Events of one moment do not know of each other."""
    found: dict[int, str] = {}
    sums: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
    clicked, shown = prior * PRIOR_LABELS, PRIOR_LABELS
    for _, group in groupby(rows, lambda row: row.event_ms):
        at_once = list(group)
        for row in at_once:
            parts = (_said(name, sums.get(key, (0, 0)), clicked / shown) for name, key in _keys(row))
            found[id(row)] = "|h " + " ".join(parts) + " "
        for row in at_once:
            clicked, shown = clicked + row.clicked, shown + 1
            for _, key in _keys(row):
                sums[key][0] += row.clicked
                sums[key][1] += 1
    return found


def _keys(row: LoggedImpression) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "all", (row.user,)
    yield "item", (row.user, "item", row.item)
    for name, value in (row.item_features or {}).items():
        if not isinstance(value, float):
            yield name, (row.user, name, values_of(value)[0])


def _said(name: str, sums: Sequence[int], base: float) -> str:
    clicked, shown = sums
    odds = (clicked + _PRIOR * base) / (shown - clicked + _PRIOR * (1 - base))
    return f"{name}:{log(odds) - log(base / (1 - base)):.5f} {name}_n:{log1p(shown):.5f}"
