"""What a step changed of a model, in absolute values: what an update carries and a replica applies."""

# K keys, V evicted keys, W tail rows, D embedding width.

from dataclasses import dataclass, field

from ranker.arrays import I64, U64
from ranker.updates.encoding import Encoded


@dataclass(frozen=True, slots=True)
class TableChange:
    """Change of one table. To apply: take evicted_V out, give keys_K their rows_K, then write both kinds of values."""

    keys_K: U64
    rows_K: I64
    values_KD: Encoded
    tails_W: I64
    """Buckets of the hashed tail, in [0, tail_rows)."""
    tail_values_WD: Encoded
    evicted_V: U64


@dataclass(frozen=True, slots=True)
class Changes:
    tables: dict[str, TableChange] = field(default_factory=dict)
    dense: dict[str, Encoded] = field(default_factory=dict)
    """Tensors by tier and name in its state_dict: "light/heads.out_bias"."""
