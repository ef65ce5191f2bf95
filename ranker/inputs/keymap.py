"""u64 key → row of a table, many at once. Knows numpy; knows nothing of weights.

Open addressing by buckets of eight: a key lives in its home bucket or, where that is full, in the next one with
room. `passed` counts, for each bucket, the keys that found it full on their way: a search ends at the first that none
passed. A key that leaves is no longer counted, and those that passed its bucket try again, so that searches stay short
however long the map lives, and no change ever has to rebuild it. Rows, not keys, say what is taken, so every u64 is a
key.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.arrays import I64, U64
from ranker.inputs.copies import Copies
from ranker.inputs.hashing import GOLDEN

WIDTH = 8
_MIN_BUCKETS = 16
_FREE = -1


def map_bytes(rows: int) -> int:
    """Memory of a KeyMap(rows): 41 bytes a row, but for the smallest."""
    return _num_buckets(rows) * (WIDTH * 16 + 4) + rows * 9


def _num_buckets(rows: int) -> int:
    # Half empty at the fullest: 2 % of the buckets are passed when it is full, and no more after a long life.
    return max(_MIN_BUCKETS, -(-2 * rows // WIDTH))


@dataclass(frozen=True, slots=True)
class Keys:
    """Which key each row [R] has, of those that have one."""

    key_of_row: U64
    taken: npt.NDArray[np.bool_]

    def items(self) -> tuple[U64, I64]:
        """All keys, ascending, with their rows: the same for equal maps, whatever way they came to be."""
        rows = np.flatnonzero(self.taken)
        keys = self.key_of_row[rows]
        order = np.argsort(keys)
        return keys[order], rows[order]


class KeyMap:
    """At most `rows` keys, each with a row of its own in [0, rows)."""

    def __init__(self, rows: int) -> None:
        self.num_rows = rows
        self._num_buckets = _num_buckets(rows)
        self._key_of_row = np.zeros(rows, np.uint64)
        self._taken = np.zeros(rows, np.bool_)
        self._slot_key = np.zeros(self._num_buckets * WIDTH, np.uint64)
        self._slot_row = np.full(self._num_buckets * WIDTH, _FREE, np.int64)
        self._passed = np.zeros(self._num_buckets, np.int32)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._taken))

    def find(self, keys: U64) -> I64:
        """The row of each key, -1 where it has none."""
        slots = self._locate(keys)
        return np.where(slots >= 0, self._slot_row[slots], _FREE)

    def items(self) -> tuple[U64, I64]:
        """All keys with their rows, as Keys.items gives them."""
        return Keys(self._key_of_row, self._taken).items()

    def copied_keys(self, copies: Copies, name: str) -> Keys:
        """Takes a hundredth of the time of items(), which sorts."""
        return Keys(copies.array(f"{name}/keys", self._key_of_row), copies.array(f"{name}/taken", self._taken))

    def key_of(self, rows: I64) -> U64:
        """The key of each row, of rows that have one."""
        return self._key_of_row[rows]

    def has_key(self, rows: I64) -> npt.NDArray[np.bool_]:
        return self._taken[rows]

    def change(self, keys: U64, rows: I64, evicted: U64) -> None:
        """Take `evicted` out (those that are there), then give each of `keys` its row, moving it if it has another.

        Doing it twice changes nothing more. Raises ValueError, with nothing changed, where `check` does.
        """
        self.check(keys, rows, evicted)
        self.change_checked(keys, rows, evicted)

    def change_checked(self, keys: U64, rows: I64, evicted: U64) -> None:
        """Like `change`, for what is known to pass `check`: checking costs as much again."""
        self._remove(evicted)
        current = self.find(keys)
        new = current != rows
        self._remove(keys[new & (current >= 0)])
        self._insert(keys[new], rows[new])

    def check(self, keys: U64, rows: I64, evicted: U64, *, held: bool = True) -> None:
        """Raises ValueError if keys or rows repeat, a row is out of range, a key is also evicted, or a row is held by
        a key that neither moves nor is evicted; `held=False` leaves out the last, as for an empty map.
        """
        if len(keys) != len(rows):
            raise ValueError(f"each key needs one row, got {len(keys)} keys, {len(rows)} rows")
        if len(rows) and (rows.min() < 0 or rows.max() >= self.num_rows):
            raise ValueError(f"rows must be in [0, {self.num_rows}), got {rows.min()} to {rows.max()}")
        if len(np.unique(keys)) != len(keys) or len(np.unique(rows)) != len(rows):
            raise ValueError("keys and rows must each be unique")
        if np.isin(keys, evicted).any():
            raise ValueError("a key cannot be given a row and evicted at once")
        if not held:
            return
        owners = self._key_of_row[rows[self._taken[rows]]]
        leaving = np.isin(owners, keys) | np.isin(owners, evicted)
        if not leaving.all():
            raise ValueError(f"rows are held by other keys, which must be evicted first: {owners[~leaving][:5]}")

    def copy_from(self, other: "KeyMap") -> None:
        """Be as `other`, a map of as many rows, is."""
        for name, value in vars(other).items():
            if isinstance(value, np.ndarray):
                np.copyto(getattr(self, name), value)

    def clear(self) -> None:
        self._taken[:] = False
        self._slot_key[:] = 0
        self._slot_row[:] = _FREE
        self._passed[:] = 0

    def buckets(self) -> tuple[U64, I64, npt.NDArray[np.int32]]:
        """The map itself, to be searched elsewhere: keys and rows, WIDTH a bucket, 0 and -1 in a free slot; `passed`.

        They change in place with the map, and are never other arrays.
        """
        return self._slot_key, self._slot_row, self._passed

    def _home(self, keys: U64) -> I64:
        # Fibonacci hashing (Knuth, volume 3, 6.4): the high bits of the product depend on all bits of the key. Scaled
        # to any number of buckets by a second product (Lemire, 2019), which 32 of them are enough for.
        high = (keys * GOLDEN) >> np.uint64(32)
        return ((high * np.uint64(self._num_buckets)) >> np.uint64(32)).astype(np.int64)

    def _next(self, buckets: I64) -> I64:
        following = buckets + 1
        following[following == self._num_buckets] = 0
        return following

    def _locate(self, keys: U64) -> I64:
        """The slot of each key, -1 where it has none."""
        found = np.full(len(keys), _FREE)
        pending = np.arange(len(keys))
        bucket = self._home(keys)
        by_bucket = self._slot_key.reshape(-1, WIDTH), self._slot_row.reshape(-1, WIDTH)
        while len(pending):
            here = (by_bucket[0][bucket] == keys[pending, None]) & (by_bucket[1][bucket] >= 0)
            column = here.argmax(axis=1)
            hit = here[np.arange(len(pending)), column]
            found[pending[hit]] = (bucket * WIDTH + column)[hit]
            onward = ~hit & (self._passed[bucket] > 0)
            pending = pending[onward]
            bucket = self._next(bucket[onward])
        return found

    def _remove(self, keys: U64) -> None:
        keys = np.unique(keys)  # a key that is named twice leaves once
        slots = self._locate(keys)
        keys, slots = keys[slots >= 0], slots[slots >= 0]
        self._taken[self._slot_row[slots]] = False
        self._free(keys, slots)
        self._pull_back(np.unique(slots // WIDTH))

    def _pull_back(self, bucket: I64) -> None:
        """Keys that found these buckets full on their way try again, now that one has left: else they would be sought
        further from their home for as long as they live, and so would all keys that are not there."""
        behind: list[I64] = []
        bucket = bucket[self._passed[bucket] > 0]
        if not len(bucket):
            return
        while len(bucket):
            bucket = self._next(bucket)
            behind.append(bucket)
            bucket = bucket[self._passed[bucket] > 0]
        slots = (np.unique(np.concatenate(behind))[:, None] * WIDTH + np.arange(WIDTH)).ravel()
        slots = slots[self._slot_row[slots] >= 0]
        slots = slots[self._home(self._slot_key[slots]) != slots // WIDTH]
        keys, rows = self._slot_key[slots], self._slot_row[slots]
        self._free(keys, slots)
        self._insert(keys, rows)

    def _free(self, keys: U64, slots: I64) -> None:
        self._slot_row[slots], self._slot_key[slots] = _FREE, 0
        bucket, end = self._home(keys), slots // WIDTH
        while len(bucket):
            onward = bucket != end
            bucket, end = bucket[onward], end[onward]
            np.subtract.at(self._passed, bucket, 1)
            bucket = self._next(bucket)

    def _insert(self, keys: U64, rows: I64) -> None:
        """Keys that are in no slot, rows that nobody holds."""
        self._key_of_row[rows] = keys
        self._taken[rows] = True
        bucket = self._home(keys)
        while len(keys):
            order = np.argsort(bucket, kind="stable")
            keys, rows, bucket = keys[order], rows[order], bucket[order]
            first = np.flatnonzero(np.r_[True, bucket[1:] != bucket[:-1]])
            nth = np.arange(len(bucket)) - np.repeat(first, np.diff(np.r_[first, len(bucket)]))  # among its bucket's
            taken = self._slot_row.reshape(-1, WIDTH)[bucket] >= 0
            fits = nth < WIDTH - taken.sum(axis=1)
            column = np.argsort(taken, axis=1, kind="stable")[fits, nth[fits]]  # free slots first, in order
            slots = bucket[fits] * WIDTH + column
            self._slot_key[slots] = keys[fits]
            self._slot_row[slots] = rows[fits]
            keys, rows, bucket = keys[~fits], rows[~fits], bucket[~fits]
            np.add.at(self._passed, bucket, 1)
            bucket = self._next(bucket)
