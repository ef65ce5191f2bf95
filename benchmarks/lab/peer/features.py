"""Features of pairs of a request and a candidate, in numpy: rows of their ids, and counts of the user's log."""

# N candidates over all requests, k of one, E events of one log, S slots of ids, F numbers.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.lab.records import rates
from benchmarks.lab.simulated import CLICK, IMPRESSION
from ranker.arrays import F32, I64, U64
from ranker.config import ITEM, ModelConfig
from ranker.inputs.features import KeyedBatch
from ranker.inputs.hashing import salted

COUNTED = (ITEM, "category", "theme")
"""Slots in which an event's item may equal the candidate."""
Log = npt.NDArray[np.void]
"""LOG_DTYPE, oldest first."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """What both models read of each pair."""

    key_NS: U64
    number_NF: F32


class PairFeatures:
    """Makes pairs. Remembers the values of each item that was ever a candidate, by which it counts the log."""

    def __init__(self, model: ModelConfig) -> None:
        self.slots = [slot.name for slot in model.slots if slot.kind == "categorical"]
        self._of_item = {slot.name for slot in model.side("candidate", "categorical")}
        self.numbers = 2 * len(COUNTED) + len(model.side("candidate", "numeric"))
        self._place_of: dict[int, int] = {}
        self._value_PC: U64 = np.zeros((1, len(COUNTED)), np.uint64)
        """By place; the first is of items that are not known."""

    def of(self, keyed: KeyedBatch, logs: Sequence[Log]) -> Pairs:
        """keyed: made with logs of no events. logs: one for each request."""
        owner_N = keyed.request_of_N
        columns = [
            slot.keys_T if name in self._of_item else slot.keys_T[owner_N]
            for name, slot in ((name, keyed.slots[name]) for name in self.slots)
        ]
        value_NC = np.stack([keyed.slots[name].keys_T for name in COUNTED], axis=1)
        self._remember(value_NC)
        starts = np.searchsorted(owner_N, np.arange(len(logs) + 1))
        counts = [
            self._counts(value_NC[begin:end], log)
            for log, begin, end in zip(logs, starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        ]
        number_NF = np.concatenate([np.concatenate(counts), keyed.dense_item_NF], axis=1)
        return Pairs(np.stack(columns, axis=1), number_NF.astype(np.float32))

    def _remember(self, value_NC: U64) -> None:
        new: dict[int, int] = {}
        for n, item in enumerate(value_NC[:, 0].tolist()):
            if item not in self._place_of:
                self._place_of[item] = len(self._value_PC) + len(new)
                new[item] = n
        if new:
            self._value_PC = np.concatenate([self._value_PC, value_NC[list(new.values())]])

    def _counts(self, value_kC: U64, log: Log) -> F32:
        """[k, 2 C]: how often the log shows, and clicks, what has the candidate's value."""
        item_E = salted(log["item"], ITEM)
        place_E: I64 = np.array([self._place_of.get(item, 0) for item in item_E.tolist()], np.int64)
        value_EC = self._value_PC[place_E]
        value_EC[:, 0] = item_E
        kind_E2 = np.stack([log["action"] == IMPRESSION, log["action"] == CLICK], axis=1).astype(np.float32)
        found = []
        for c in range(len(COUNTED)):
            same_kE = (value_kC[:, c, None] == value_EC[:, c]).astype(np.float32)
            found += rates(*(same_kE @ kind_E2).T)
        return np.stack(found, axis=1).astype(np.float32)
