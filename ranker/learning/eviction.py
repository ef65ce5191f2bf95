"""Which keys have a row of their own: new ones come in, unused ones give way. For the trainer alone.

A clock hand goes round the rows (Corbató, 1968). Each step it looks at the next few of them, and the least recently
used of those give way: near enough to the least recently used of all (a row that is used more often than most is
never among the oldest eighth of what the hand sees), at a cost that does not depend on the size of the table.

In a full table nobody gives way to a key that may never come again: a key is turned away at first, and let in when it
comes again before as many others as the table has rows (the doorkeeper of Einziger et al., 2017, "TinyLFU", as marks
that are overwritten rather than a filter that is emptied). Until then it shares the tail.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.arrays import I64, U64
from ranker.inputs.copies import Copies
from ranker.inputs.keymap import KeyMap

_NEVER = -1
_NOBODY = 2**32 - 1
_LOOK_AT_LEAST = 1_024
"""Rows the hand passes in a step, at least: an idle row is found within one full turn, a million rows in 977 steps."""
_LOOK_FOR_EACH = 8
"""Rows the hand passes for each one that a new key needs."""
_NO_KEYS: U64 = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Admitted:
    """keys_K got rows_K; evicted_V had to leave, and freed_V are the rows they had (keys_K may have got them)."""

    keys_K: U64
    rows_K: I64
    evicted_V: U64
    freed_V: I64


class Admission:
    """Gives rows of `key_map` to keys. The same calls give the same rows."""

    def __init__(self, key_map: KeyMap, idle_steps: int | None = None) -> None:
        """idle_steps: a row unused for more steps is freed, needed or not; None: only when it is needed."""
        self.key_map = key_map
        rows = key_map.num_rows
        self._idle_steps = idle_steps
        self._used = np.full(rows, _NEVER, np.int64)  # the step a row was last used at
        self._free = np.arange(rows)[::-1].copy()  # a stack: its top is at _num_free - 1
        self._num_free = rows
        self._hand = 0  # the row that is looked at next
        self._turned_away = np.full(rows, _NOBODY, np.uint32)  # by key, half of it

    def admit(self, keys: U64, step: int) -> Admitted:
        """Mark these distinct keys as used at `step`; give a row to those without one, a full table's only to those
        that were turned away not long ago.

        Takes time in proportion to the keys, whatever the table's size. Keys used at this step are never evicted;
        what then finds no row goes on sharing the tail.
        """
        rows = self.key_map.find(keys)
        self._used[rows[rows >= 0]] = step
        new = keys[rows < 0]
        again = self._turned_away_before(new)
        freed = self._make_room(int(np.count_nonzero(again)), step)
        evicted = self.key_map.key_of(freed)
        new = new[np.argsort(~again, kind="stable")][: self._num_free]
        rows = self._pop(len(new))
        self.key_map.change_checked(new, rows, evicted)
        self._used[rows] = step
        return Admitted(new, rows, evicted, freed)

    def _turned_away_before(self, keys: U64) -> npt.NDArray[np.bool_]:
        """Says which new keys may have a row: all if enough rows are free, else those that were turned away before.

        Where rows are short, all are marked as turned away, each in the place of an earlier mark.
        """
        if len(keys) <= self._num_free:
            return np.ones(len(keys), np.bool_)
        places, marks = keys % np.uint64(len(self._turned_away)), (keys >> np.uint64(32)).astype(np.uint32)
        again: npt.NDArray[np.bool_] = self._turned_away[places] == marks
        self._turned_away[places] = marks
        return again

    def state(self) -> dict[str, np.ndarray]:
        """Everything, the key map included."""
        return self.copied(Copies(), "")()

    def copied(self, copies: Copies, name: str) -> Callable[[], dict[str, np.ndarray]]:
        """Copies the state of this moment; the function it returns sorts the copy, in another thread if need be."""
        keys = self.key_map.copied_keys(copies, name)
        rest = {
            "used": copies.array(f"{name}/used", self._used),
            "free": copies.array(f"{name}/free", self._free)[: self._num_free],
            "hand": np.array([self._hand]),
            "turned_away": copies.array(f"{name}/turned_away", self._turned_away),
        }
        return lambda: dict(zip(("keys", "rows"), keys.items(), strict=True)) | rest

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.key_map.clear()
        self.key_map.change(state["keys"], state["rows"], _NO_KEYS)
        self._used[:] = state["used"]
        self._num_free = len(state["free"])
        self._free[: self._num_free] = state["free"]
        self._hand = int(state["hand"][0])
        self._turned_away[:] = state["turned_away"]

    def _pop(self, count: int) -> I64:
        self._num_free -= count
        return self._free[self._num_free : self._num_free + count][::-1].copy()

    def _make_room(self, wanted: int, step: int) -> I64:
        """Free the rows that are idle, and more if `wanted` are not free: of what the hand passes, oldest first."""
        short = max(wanted - self._num_free, 0)
        if short == 0 and self._idle_steps is None:
            return self._free[:0]
        passed = self._advance(max(_LOOK_AT_LEAST, _LOOK_FOR_EACH * short))
        used = self._used[passed]
        candidates = passed[(used != _NEVER) & (used != step)]
        used = self._used[candidates]
        idle = 0 if self._idle_steps is None else int(np.count_nonzero(used < step - self._idle_steps))
        count = min(max(short, idle), len(candidates))
        # Equal ages go by row, so that the choice does not depend on where the hand began.
        order = np.argsort(used * self.key_map.num_rows + candidates)
        rows = np.sort(candidates[order[:count]])
        self._used[rows] = _NEVER
        self._free[self._num_free : self._num_free + count] = rows[::-1]
        self._num_free += count
        return rows

    def _advance(self, count: int) -> I64:
        """The next `count` rows, or all."""
        rows = self.key_map.num_rows
        passed = (self._hand + np.arange(min(count, rows))) % rows
        self._hand = (self._hand + len(passed)) % rows
        return passed
