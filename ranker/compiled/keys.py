"""Keys and their rows as operators of a graph: what ranker/inputs does with numpy, in the same bits.

torch has no unsigned 64-bit arithmetic, so keys are int64 of the same bits: sums and products are the same, and what is
not (shifts to the right, remainders, order) is done here.
"""

# K keys, N candidates, b buckets and S slots that are searched.

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ranker.config import TableConfig
from ranker.inputs.hashing import GOLDEN, MIX, salt_of
from ranker.inputs.keymap import WIDTH, KeyMap

_MASK = 2**64 - 1
SEARCHED = 4
"""Buckets that are searched for a key: a map that is full passes few of its buckets, and hardly ever four in a row."""


def as_int64(value: int) -> int:
    """The int64 of the same bits as this uint64."""
    value = int(value) & _MASK
    return value - 2**64 if value >= 2**63 else value


_MIX, _GOLDEN = [as_int64(int(factor)) for factor in MIX], as_int64(int(GOLDEN))


def shifted(key_K: Tensor, bits: int) -> Tensor:
    """Unsigned shift to the right."""
    return (key_K >> bits) & ((1 << (64 - bits)) - 1)


def mixed(key_K: Tensor) -> Tensor:
    """See ranker.inputs.hashing.mixed."""
    key_K = (key_K ^ shifted(key_K, 30)) * _MIX[0]
    key_K = (key_K ^ shifted(key_K, 27)) * _MIX[1]
    return key_K ^ shifted(key_K, 31)


def remainder(key_K: Tensor, divisor: int) -> Tensor:
    """Unsigned remainder; divisor < 2³¹."""
    if divisor & (divisor - 1) == 0:
        return key_K & (divisor - 1)
    high_K, low_K = shifted(key_K, 32), key_K & 0xFFFFFFFF
    return (high_K % divisor * (2**32 % divisor) + low_K) % divisor


def crossed(keys: Mapping[str, Tensor], crosses: Sequence[Sequence[str]], salt: str, candidates: int) -> Tensor:
    """Keys [N, crosses], as ranker.inputs.slot_keys.Crosses has them. keys: by slot, [N] or of the request []."""
    columns = []
    for cross in crosses:
        first, *others = sorted(cross)
        key = keys[first]
        for name in others:
            key = key * _GOLDEN + keys[name]
        columns.append(key)
    key_NC = torch.stack([key.expand(candidates) for key in columns], dim=1)
    return mixed(key_NC ^ as_int64(int(salt_of(salt))))


def stored(x_K: Tensor) -> Tensor:
    """The same, written to memory: else the compiler repeats what it follows from in each loop that reads it."""
    return torch.zeros_like(x_K).index_put((torch.arange(x_K.shape[0]),), x_K)


class TableRows(nn.Module):
    """A table: its weights, and the map of the keys that have a row of their own, both as they are at each call."""

    weights: Tensor
    slot_key: Tensor
    slot_row: Tensor
    passed: Tensor

    def __init__(self, config: TableConfig, weights: Tensor, key_map: KeyMap) -> None:
        super().__init__()
        self._rows, self._tail_rows = config.rows, config.tail_rows
        self.register_buffer("weights", weights)
        if config.rows:
            slot_key, slot_row, passed = key_map.buckets()
            self.register_buffer("slot_key", torch.from_numpy(slot_key.view("int64")))
            self.register_buffer("slot_row", torch.from_numpy(slot_row))
            self.register_buffer("passed", torch.from_numpy(passed))

    def own(self, key_K: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the keys, -1 where one has none; and whether one may have a row that was not found, as a map may hold
        it further from its home than is searched."""
        if not self._rows:
            return torch.full_like(key_K, -1), torch.zeros((), dtype=torch.bool)
        buckets = self.passed.shape[0]
        home_K = shifted(shifted(key_K * _GOLDEN, 32) * buckets, 32)
        # Keys last: a loop over them is done many at a time.
        bucket_bK = home_K + torch.arange(SEARCHED)[:, None]
        bucket_bK = torch.where(bucket_bK >= buckets, bucket_bK - buckets, bucket_bK)
        slot_bSK = bucket_bK[:, None] * WIDTH + torch.arange(WIDTH)[:, None]
        slot_K = torch.where(self.slot_key[slot_bSK] == key_K, slot_bSK, -1).amax(dim=(0, 1))
        further_K = (self.passed[bucket_bK] > 0).all(dim=0)
        row_K = stored(torch.where(slot_K >= 0, self.slot_row[slot_K.clamp(min=0)], -1))
        # A free slot holds the key 0, and may have been found in place of that key's own.
        return row_K, ((row_K < 0) & (further_K | (slot_K >= 0))).any()

    def rows(self, key_K: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that the keys read, and whether one is not sure, as `own` has it."""
        own_K, unsure = self.own(key_K)
        return torch.where(own_K >= 0, own_K, remainder(key_K, self._tail_rows) + self._rows), unsure
