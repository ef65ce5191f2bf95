"""What a step changed of a model, in absolute values: what an update carries and a replica applies."""

# K keys, V evicted keys, W tail rows, C catalogued keys, S slots of the catalogue, D embedding width.

from dataclasses import dataclass, field

import numpy as np

from ranker.arrays import I64, U64
from ranker.updates.encoding import Encoded


@dataclass(frozen=True, slots=True)
class TableChange:
    """Change of one table. To apply: take evicted_V out, give keys_K their rows_K (a key that gets another row loses
    its catalogue entry), then write both kinds of values, and the entries."""

    keys_K: U64
    rows_K: I64
    values_KD: Encoded
    tails_W: I64
    """Buckets of the hashed tail, in [0, tail_rows)."""
    tail_values_WD: Encoded
    evicted_V: U64
    catalogued_C: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    """Items whose catalogue entries changed, each with a row, or among keys_K."""
    entry_CS: U64 = field(default_factory=lambda: np.empty((0, 0), np.uint64))
    """Their entries (ranker/inputs/evidence.py)."""


@dataclass(frozen=True, slots=True)
class Changes:
    tables: dict[str, TableChange] = field(default_factory=dict)
    dense: dict[str, Encoded] = field(default_factory=dict)
    """Tensors by tier and name in its state_dict: "light/heads.out_bias"."""
