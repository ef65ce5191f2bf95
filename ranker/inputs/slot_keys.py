"""Keys of slots, and of crosses of slots. All slots at once, so that there are few calls."""

# N candidates over all requests, T values, S slots that are crossed, C crosses.

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import xxhash

from ranker.arrays import I64, U64
from ranker.inputs.hashing import GOLDEN, mixed, number_category, salt_of


@dataclass(frozen=True, slots=True)
class SlotKeys:
    """keys_T: salted keys, back to back; lengths: int64, None where each has exactly one (see SlotValues)."""

    keys_T: U64
    lengths: I64 | None


def keys_of(values: Mapping[str, Sequence[object]]) -> dict[str, SlotKeys]:
    """Returns the keys of slots, by name, from what was sent in each: a category, a number, or several categories."""
    lengths: dict[str, I64] = {}
    try:
        hashes_T = _hashes(list(chain.from_iterable(values.values())))
    except AttributeError:  # not all are strings, which is rare: say so by trying, not by looking at each
        sets = {slot: [_categories(value) for value in sent] for slot, sent in values.items()}
        odd = [slot for slot, sent in values.items() if not all(isinstance(value, str) for value in sent)]
        lengths = {slot: np.array([len(s) for s in sets[slot]], np.int64) for slot in odd}
        values = {slot: list(chain.from_iterable(sets[slot])) for slot in values}
        hashes_T = _hashes(list(chain.from_iterable(values.values())))
    counts = [len(sent) for sent in values.values()]
    keys_T = mixed(hashes_T ^ np.repeat(np.array([salt_of(slot) for slot in values], np.uint64), counts))
    ends = np.cumsum(counts).tolist()
    return {
        slot: SlotKeys(keys_T[end - count : end], lengths.get(slot))
        for slot, count, end in zip(values, counts, ends, strict=True)
    }


def missing_key(slot: str) -> int:
    """Returns the key of a category that is missing."""
    return int(keys_of({slot: [""]})[slot].keys_T[0])


def first_values(slot: SlotKeys) -> U64:
    """Returns the first value of each."""
    if slot.lengths is None:
        return slot.keys_T
    first: U64 = slot.keys_T[np.cumsum(slot.lengths) - slot.lengths]
    return first


class Crosses:
    """Crosses of slots, whose keys are salted by a name of their own."""

    def __init__(self, salt: str, crosses: Sequence[Sequence[str]]) -> None:
        self._salt = salt_of(salt)
        self._names = sorted({name for cross in crosses for name in cross})
        places = [[self._names.index(name) for name in sorted(cross)] for cross in crosses]
        self._first_C = np.array([first for first, *_ in places], np.int64)
        self._further: list[tuple[I64, I64]] = []
        """What is mixed in next: in which crosses, and of which slot."""
        for depth in range(1, max(map(len, places), default=0)):
            columns = [c for c, cross in enumerate(places) if len(cross) > depth]
            self._further.append((np.array(columns), np.array([places[c][depth] for c in columns])))

    def keys(self, slots: Mapping[str, SlotKeys], request_of_N: I64, item_slots: frozenset[str]) -> SlotKeys:
        """Returns a key for each cross of each candidate, in order. Of a slot with several values the first counts."""
        value_NS = np.empty((len(request_of_N), len(self._names)), np.uint64)
        for s, name in enumerate(self._names):
            first = first_values(slots[name])
            value_NS[:, s] = first if name in item_slots else first[request_of_N]
        key_NC = value_NS[:, self._first_C]
        for columns, places in self._further:
            key_NC[:, columns] = key_NC[:, columns] * GOLDEN + value_NS[:, places]
        lengths = np.full(len(request_of_N), len(self._first_C), np.int64)
        return SlotKeys(mixed(key_NC.ravel() ^ self._salt), lengths)


def _hashes(values: Sequence[object]) -> U64:
    """hash64 of each, the call in between spared: this is the hot loop of a large request."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(v.encode()) for v in values), np.uint64, len(values))  # type: ignore[attr-defined]


def _categories(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, (int, float)):
        return [number_category(value)]
    if isinstance(value, Iterable):
        return [str(v) for v in value] or [""]
    return [""]
