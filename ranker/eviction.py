"""Which keys have a row of their own: new ones come in, the least recently used give way. For the trainer alone."""

from dataclasses import dataclass

import numpy as np

from ranker.hashing import U64
from ranker.keymap import I64, KeyMap

_NEVER = -1
_STEPS_TO_TURN_OVER = 256
"""Eviction looks at every row, so it makes room for a 256th of the table at a time, not for one key."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """keys_K got rows_K; evicted_V had to leave for them."""

    keys_K: U64
    rows_K: I64
    evicted_V: U64


class Admission:
    """Gives rows of `key_map` to keys. The same calls give the same rows."""

    def __init__(self, key_map: KeyMap) -> None:
        self.key_map = key_map
        rows = key_map.num_rows
        self._used = np.full(rows, _NEVER, np.int64)  # the step a row was last used at
        self._free = np.arange(rows)[::-1].copy()  # a stack: its top is at _num_free - 1
        self._num_free = rows

    def admit(self, keys: U64, step: int) -> Admitted:
        """Mark these distinct keys as used at `step`; give a row to those without one.

        Keys used at this step are never evicted; what then finds no row goes on sharing the tail.
        """
        rows = self.key_map.find(keys)
        self._used[rows[rows >= 0]] = step
        new = keys[rows < 0]
        evicted = self._make_room(len(new), step)
        new = new[: self._num_free]
        rows = self._pop(len(new))
        self.key_map.change(new, rows, np.empty(0, np.uint64))
        self._used[rows] = step
        return Admitted(new, rows, evicted)

    def state(self) -> dict[str, np.ndarray]:
        """Everything, the key map included."""
        keys, rows = self.key_map.items()
        return {"keys": keys, "rows": rows, "used": self._used.copy(), "free": self._free[: self._num_free].copy()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.key_map.clear()
        self.key_map.change(state["keys"], state["rows"], np.empty(0, np.uint64))
        self._used[:] = state["used"]
        self._num_free = len(state["free"])
        self._free[: self._num_free] = state["free"]

    def _pop(self, count: int) -> I64:
        self._num_free -= count
        return self._free[self._num_free : self._num_free + count][::-1].copy()

    def _make_room(self, wanted: int, step: int) -> U64:
        """Evict until `wanted` rows are free, or as many as can be."""
        if wanted <= self._num_free:
            return np.empty(0, np.uint64)
        candidates = np.flatnonzero((self._used != _NEVER) & (self._used != step))
        count = min(max(wanted - self._num_free, self.key_map.num_rows // _STEPS_TO_TURN_OVER), len(candidates))
        # Ties are broken by row, so that the choice does not depend on the partition's inner order.
        age = self._used[candidates] * self.key_map.num_rows + candidates
        rows = candidates[np.sort(np.argpartition(age, count - 1)[:count])] if count else candidates[:0]
        evicted = self.key_map.key_of(rows)
        self.key_map.change(evicted[:0], rows[:0], evicted)
        self._used[rows] = _NEVER
        self._free[self._num_free : self._num_free + len(rows)] = rows[::-1]
        self._num_free += len(rows)
        return evicted
