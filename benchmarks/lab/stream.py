"""A stream of labelled requests as arrays: encoded once, then cut into the learner's batches without a Python row.

Nothing is stored per request of its log but where it ends: a log is a stretch of its user's events.
"""

# R requests, N candidates, E events of all users, T values of a slot.

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranker.arrays import F32, I64
from ranker.config import ITEM, LOG, ModelConfig
from ranker.inputs.features import Featurizer, KeyedBatch
from ranker.inputs.hashing import salted
from ranker.inputs.requests import ScoringRequest
from ranker.inputs.slot_keys import SlotKeys

CACHE = Path(".cache/lab")


@dataclass(frozen=True)
class Stream:
    """Requests in the order of time, each with its candidates as they were shown."""

    keyed: KeyedBatch
    """Keys of all requests, with empty logs."""
    event_ms_R: I64
    log_start_R: I64
    log_end_R: I64
    """Events [start, end) are the request's log, oldest first."""
    events_E: npt.NDArray[np.void]
    """LOG_DTYPE."""
    position_N: I64
    click_N: F32
    conversion_N: F32
    """NaN where there was no click."""
    truth_N: F32
    """True probability of the click at its position; NaN where nobody knows it."""

    @cached_property
    def candidate_starts(self) -> I64:
        """[R + 1]."""
        counts = np.bincount(self.keyed.request_of_N, minlength=self.requests)
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def _log_keys(self) -> npt.NDArray[np.uint64]:
        return salted(self.events_E["item"], ITEM)

    @cached_property
    def _slot_starts(self) -> dict[str, I64]:
        return {
            name: np.concatenate([[0], np.cumsum(slot.lengths)])
            for name, slot in self.keyed.slots.items()
            if slot.lengths is not None and name != LOG
        }

    def item_keys(self, items: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Keys of slot `item` of items as events name them."""
        return salted(items, ITEM)

    @property
    def requests(self) -> int:
        return len(self.event_ms_R)

    def batch(self, first: int, last: int, log_length: int, user_side: frozenset[str]) -> KeyedBatch:
        """Requests [first, last) as Featurizer.keys gives them. user_side: slots of user and context."""
        begin, end = self.candidate_starts[first], self.candidate_starts[last]
        slots = {}
        for name, slot in self.keyed.slots.items():
            if name != LOG:
                low, high = (first, last) if name in user_side else (begin, end)
                slots[name] = self._cut(name, slot, int(low), int(high))
        log_end = self.log_end_R[first:last]
        lengths = np.minimum(log_end - self.log_start_R[first:last], log_length)
        starts = np.repeat(log_end - lengths - (np.cumsum(lengths) - lengths), lengths)
        index = starts + np.arange(len(starts))
        events = self.events_E[index]
        slots[LOG] = SlotKeys(self._log_keys[index], lengths)
        age_s = np.repeat(self.event_ms_R[first:last], lengths) / 1000 - events["time_s"]
        return KeyedBatch(
            request_of_N=self.keyed.request_of_N[begin:end] - first,
            slots=slots,
            dense_user_BF=self.keyed.dense_user_BF[first:last],
            dense_item_NF=self.keyed.dense_item_NF[begin:end],
            log_action_E=events["action"].astype(np.int64),
            log_surface_E=events["surface"].astype(np.int64),
            log_age_E=np.log1p(np.maximum(age_s, 0)).astype(np.float32),
            log_value_E=np.log1p(events["value"].astype(np.float64)).astype(np.float32),
        )

    def _cut(self, name: str, slot: SlotKeys, low: int, high: int) -> SlotKeys:
        if slot.lengths is None:
            return SlotKeys(slot.keys_T[low:high], None)
        starts = self._slot_starts[name]
        return SlotKeys(slot.keys_T[starts[low] : starts[high]], slot.lengths[low:high])

    def split(self, user_side: frozenset[str]) -> "Stream":
        """The same impressions, each a request of its own. Raises ValueError for user slots of several values."""
        owner_N, slots = self.keyed.request_of_N, {}
        for name, slot in self.keyed.slots.items():
            if name in user_side:
                if slot.lengths is not None:
                    raise ValueError(f"slot {name!r} has several values a request: such a stream cannot be split")
                slots[name] = SlotKeys(slot.keys_T[owner_N], None)
            else:
                slots[name] = slot
        keyed = replace(
            self.keyed,
            request_of_N=np.arange(len(owner_N)),
            slots=slots,
            dense_user_BF=self.keyed.dense_user_BF[owner_N],
        )
        return replace(
            self,
            keyed=keyed,
            event_ms_R=self.event_ms_R[owner_N],
            log_start_R=self.log_start_R[owner_N],
            log_end_R=self.log_end_R[owner_N],
        )


def encode(model: ModelConfig, requests: list[ScoringRequest]) -> KeyedBatch:
    """Keys of all requests, their logs left out."""
    return Featurizer(model).keys(requests, 0)


def user_side(model: ModelConfig) -> frozenset[str]:
    return frozenset(s.name for s in model.slots if s.side != "candidate")


def save(stream: Stream, path: Path) -> None:
    arrays: dict[str, np.ndarray] = {f: getattr(stream, f) for f in _ARRAYS}
    arrays |= {f"keyed/{f}": getattr(stream.keyed, f) for f in _KEYED}
    for name, slot in stream.keyed.slots.items():
        arrays[f"slot/{name}"] = slot.keys_T
        if slot.lengths is not None:
            arrays[f"lengths/{name}"] = slot.lengths
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.stem}.{os.getpid()}.npz")  # two runs may draw the same stream at once
    np.savez(draft, **arrays)  # type: ignore[arg-type]
    draft.replace(path)


def load(path: Path) -> Stream:
    with np.load(path) as file:
        arrays = dict(file)
    slots = {
        key.removeprefix("slot/"): SlotKeys(keys, arrays.get(key.replace("slot/", "lengths/", 1)))
        for key, keys in arrays.items()
        if key.startswith("slot/")
    }
    keyed = KeyedBatch(slots=slots, **{f: arrays[f"keyed/{f}"] for f in _KEYED})
    return Stream(keyed=keyed, **{f: arrays[f] for f in _ARRAYS})


_ARRAYS = (
    "event_ms_R",
    "log_start_R",
    "log_end_R",
    "events_E",
    "position_N",
    "click_N",
    "conversion_N",
    "truth_N",
)
_KEYED = (
    "request_of_N",
    "dense_user_BF",
    "dense_item_NF",
    "log_action_E",
    "log_surface_E",
    "log_age_E",
    "log_value_E",
)
