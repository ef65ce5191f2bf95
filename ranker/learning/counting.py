"""Counting what was shown, clicked and bought: how rows of statistics learn, which no gradient reaches.

A click is known at once, and that there was none only later. Counted as they come, all that was shown a moment ago
would seem to be clicked. So a click waits until something that was shown no earlier is known not to be clicked; a
conversion likewise.
"""

# N examples, S statistics, Q positives that wait, K distinct rows, C columns.

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ranker.arrays import F32, I64
from ranker.config import STATISTICS
from ranker.delayed.policies import Emission, Policy
from ranker.inputs.statistics import CLICKED, CONVERTED, JUDGED, MEMORIES, OF_CLICKS, SHOWN
from ranker.learning.lessons import Lesson


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Examples of one kind, to be counted in the rows of their statistics."""

    rows_NS: I64
    tried_N: F32
    """Impressions (or clicks) that each stands for; 0 where it was counted already, when it seemed to bring nothing."""
    positive_N: F32
    """Its label."""
    shown_ms_N: I64

    def take(self, index: np.ndarray) -> "Outcomes":
        return Outcomes(*(getattr(self, f.name)[index] for f in fields(self)))

    def after(self, earlier: "Outcomes") -> "Outcomes":
        return Outcomes(*(np.concatenate([getattr(earlier, f.name), getattr(self, f.name)]) for f in fields(self)))


def no_outcomes(statistics: int) -> Outcomes:
    none = np.empty(0, np.float32)
    return Outcomes(np.empty((0, statistics), np.int64), none, none, np.empty(0, np.int64))


def outcomes(policy: Policy, emission_N: I64, label_N: F32, given: Outcomes) -> Outcomes:
    """Returns what of `given` is to be counted, and as what: each impression once, whatever the policy says early."""
    early = bool(policy.learns(np.array([Emission.PROVISIONAL]))) and not policy.learns(np.array([Emission.CLOSED]))
    negative = Emission.PROVISIONAL if early else Emission.CLOSED
    positive_N = (emission_N == Emission.CONVERTED) | (emission_N == Emission.CORRECTED)
    known_before_N = (emission_N == Emission.CORRECTED) & early
    label_N = np.where(np.isnan(label_N), positive_N, label_N).astype(np.float32)
    said = Outcomes(given.rows_NS, np.where(known_before_N, np.float32(0), given.tried_N), label_N, given.shown_ms_N)
    return said.take(positive_N | (emission_N == negative))


class Maturing:
    """Holds positives back until negatives of their age are known."""

    def __init__(self, statistics: int) -> None:
        self.closed_ms = 0
        """Event time of the newest impression that is known to have brought nothing."""
        self.waiting = no_outcomes(statistics)

    def pass_through(self, found: Outcomes) -> Outcomes:
        """Returns those of `found`, and of what waited, that are to be counted now."""
        all_known = found.after(self.waiting)
        self.closed_ms = int(found.shown_ms_N[found.positive_N == 0].max(initial=self.closed_ms))
        waits_N = (all_known.positive_N > 0) & (all_known.shown_ms_N > self.closed_ms)
        self.waiting = all_known.take(waits_N)
        return all_known.take(~waits_N)


class Counter:
    """Counts what lessons say of clicks and of conversions, each kind under its policy."""

    def __init__(self, statistics: int, policies: Mapping[str, Policy]) -> None:
        """policies: of "click" and of "conversion"."""
        self._statistics = statistics
        self._policies = policies
        self._maturing = {kind: Maturing(statistics) for kind in policies}

    def count(self, lesson: Lesson, worth_N: F32, weights_RC: Tensor) -> I64:
        """Counts the lesson's examples, in place. Returns the rows that changed, ascending.

        worth_N: how many impressions at an average place each is worth.
        """
        rows_NS = lesson.batch.slots[STATISTICS].rows_T.numpy().reshape(-1, self._statistics)
        shown = Outcomes(rows_NS, worth_N, lesson.click_N.numpy(), lesson.shown_ms_N)
        clicked = Outcomes(rows_NS, np.ones_like(worth_N), lesson.conversion_N.numpy(), lesson.shown_ms_N)
        impressions = self._due("click", lesson.click_emission_N, shown)
        clicks = self._due("conversion", lesson.emission_N, clicked)
        rows_K, tried_K, positive_K = _by_row(impressions)
        for number, memory in enumerate(MEMORIES):
            fade(weights_RC, rows_K, tried_K, positive_K, 2 * number + SHOWN, 2 * number + CLICKED, memory)
        of_clicks_K, judged_K, bought_K = _by_row(clicks)
        fade(weights_RC, of_clicks_K, judged_K, bought_K, JUDGED, CONVERTED, OF_CLICKS)
        return np.union1d(rows_K, of_clicks_K)

    def _due(self, kind: str, emission_N: Tensor, given: Outcomes) -> Outcomes:
        found = outcomes(self._policies[kind], emission_N.numpy(), given.positive_N, given)
        return self._maturing[kind].pass_through(found)

    def state(self) -> dict[str, np.ndarray]:
        state: dict[str, np.ndarray] = {}
        for kind, maturing in self._maturing.items():
            state[f"{kind}/closed_ms"] = np.array(maturing.closed_ms, np.int64)
            state |= {f"{kind}/{f.name}": getattr(maturing.waiting, f.name).copy() for f in fields(Outcomes)}
        return state

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        for kind, maturing in self._maturing.items():
            maturing.closed_ms = int(state[f"{kind}/closed_ms"])
            maturing.waiting = Outcomes(*(state[f"{kind}/{f.name}"] for f in fields(Outcomes)))


def _by_row(found: Outcomes) -> tuple[I64, F32, F32]:
    """Distinct rows, ascending, and the sums over the examples that have them."""
    rows_K, place_T = np.unique(found.rows_NS.ravel(), return_inverse=True)
    sums = (
        np.bincount(place_T, np.repeat(x_N, found.rows_NS.shape[1]), len(rows_K))
        for x_N in (found.tried_N, found.positive_N)
    )
    tried_K, positive_K = (x_K.astype(np.float32) for x_K in sums)
    return rows_K, tried_K, positive_K


def fade(
    weights_RC: Tensor,
    rows_K: I64,
    tried_K: F32,
    positive_K: F32,
    tried_column: int,
    positive_column: int,
    memory: float,
) -> None:
    """Counts in two columns, in place (ranker/inputs/statistics.py). What was tried before is as one of the newest."""
    rows = torch.from_numpy(rows_K)
    held_KC = weights_RC[rows].numpy()
    keep_K = np.float32(1 - 1 / memory) ** tried_K
    share_K = np.where(tried_K > 0, (1 - keep_K) / np.maximum(tried_K, 1e-6), 1 / memory).astype(np.float32)
    held_KC[:, tried_column] = held_KC[:, tried_column] * keep_K + (1 - keep_K)
    positives_K = held_KC[:, positive_column] * keep_K + share_K * positive_K
    held_KC[:, positive_column] = np.minimum(positives_K, held_KC[:, tried_column])
    weights_RC[rows] = torch.from_numpy(held_KC)
