"""What of the trainer's weights has changed since it was last published."""

import numpy as np
import torch

from ranker.changes import Changes, TableChange, to_wire
from ranker.hashing import U64
from ranker.image import Tiers, dense_tensors
from ranker.keymap import I64
from ranker.torchrec_tables import TorchRecTables
from ranker.update_log import Dirty


class PendingChanges:
    """Marks on rows, and keys that lost theirs. Dense tensors need no marks: every step changes all of them."""

    def __init__(self, tables: TorchRecTables, dtype: torch.dtype) -> None:
        self._tables = tables
        self._dtype = dtype
        self._touched = {name: np.zeros(len(weights), np.bool_) for name, weights in tables.weights.items()}
        self._evicted: dict[str, set[int]] = {name: set() for name in tables.weights}

    def touch(self, table: str, rows: I64) -> None:
        self._touched[table][rows] = True

    def evict(self, table: str, keys: U64) -> None:
        self._evicted[table].update(keys.tolist())

    def mark_dirty(self, dirty: Dirty) -> None:
        """Keys that the log knows: those that have a row here go out again, the others are evicted."""
        for table, keys in dirty.keys.items():
            rows = self._tables.key_maps[table].find(keys)
            self.touch(table, rows[rows >= 0])
            self.evict(table, keys[rows < 0])
        for table, tails in dirty.tails.items():
            self.touch(table, tails + self._tables.key_maps[table].num_rows)

    def take(self, tiers: Tiers) -> Changes:
        """All of it, in absolute values; then nothing is pending."""
        tables = {}
        for name, weights in self._tables.weights.items():
            key_map = self._tables.key_maps[name]
            touched = np.flatnonzero(self._touched[name])
            rows, tails = touched[touched < key_map.num_rows], touched[touched >= key_map.num_rows]
            rows = rows[key_map.has_key(rows)]  # an evicted key may have left a free row behind
            keys = key_map.key_of(rows)
            order = np.argsort(keys)
            keys, rows = keys[order], rows[order]
            evicted = np.array(sorted(self._evicted[name]), np.uint64)
            tables[name] = TableChange(
                keys_K=keys,
                rows_K=rows,
                values_KD=weights[torch.from_numpy(rows)].to(self._dtype),
                tails_W=tails - key_map.num_rows,
                tail_values_WD=weights[torch.from_numpy(tails)].to(self._dtype),
                evicted_V=evicted[key_map.find(evicted) < 0],  # one that came back is in keys
            )
            self._touched[name][:] = False
            self._evicted[name].clear()
        return Changes(tables, {name: to_wire(t, self._dtype) for name, t in dense_tensors(tiers).items()})

    def state(self, table: str) -> dict[str, np.ndarray]:
        return {"touched": self._touched[table].copy(), "evicted": np.array(sorted(self._evicted[table]), np.uint64)}

    def restore(self, table: str, state: dict[str, np.ndarray]) -> None:
        self._touched[table][:] = state["touched"]
        self._evicted[table] = set(state["evicted"].tolist())
