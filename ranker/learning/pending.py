"""What of the trainer's weights has changed since it was last published, and what of it the next update takes."""

# R rows of a table, K those taken, D embedding width.

import numpy as np
import torch
from torch import Tensor

from ranker.arrays import I64, U64
from ranker.config import STATISTICS, UpdateConfig
from ranker.inputs.statistics import MEMORY_OF_COLUMN
from ranker.inputs.tables import PlainTables
from ranker.learning.trained_tables import TrainedTables
from ranker.updates.changes import Changes, TableChange
from ranker.updates.encoding import SMALL, encode, encode_dense, row_bytes, row_encoding
from ranker.updates.image import Image, Tensors
from ranker.updates.log import Dirty

_NO_ENTRIES: U64 = np.empty((0, 0), np.uint64)
_ROW_OVERHEAD = 16
"""Bytes of a row's key and number."""


class PendingChanges:
    """Marks on rows, and keys that lost theirs. Dense tensors need no marks: every step changes all of them."""

    def __init__(self, tables: TrainedTables, config: UpdateConfig) -> None:
        self._tables = tables
        self._config = config
        self._touched = {name: np.zeros(len(weights), np.bool_) for name, weights in tables.weights.items()}
        self._evicted: dict[str, set[int]] = {name: set() for name in tables.weights}
        self._unsent = np.zeros(len(tables.catalogue.entry_RS), np.bool_)
        """Marks on rows whose catalogue entries replicas lack."""

    def touch(self, table: str, rows: I64) -> None:
        self._touched[table][rows] = True

    def touch_catalogue(self, rows: I64) -> None:
        """An item's row goes out with its entry, however little it has moved, and whatever the budget: replicas must
        know whose entry it is. Rows without a key are passed over."""
        table = self._tables.catalogue.table
        rows = rows[self._tables.key_maps[table].has_key(rows)]
        self._unsent[rows] = True
        self.touch(table, rows)

    def evict(self, table: str, keys: U64) -> None:
        self._evicted[table].update(keys.tolist())

    def mark_dirty(self, dirty: Dirty) -> None:
        """Keys that the log knows: those that have a row here go out again, the others are evicted."""
        for table, keys in dirty.keys.items():
            rows = self._tables.key_maps[table].find(keys)
            self.touch(table, rows[rows >= 0])
            if table == self._tables.catalogue.table and len(self._unsent):
                self.touch_catalogue(rows[rows >= 0])
            self.evict(table, keys[rows < 0])
        for table, tails in dirty.tails.items():
            self.touch(table, tails + self._tables.key_maps[table].num_rows)

    def values(self) -> dict[str, Tensor]:
        """The rows that are marked, of each table: all that a step has changed since they were taken."""
        return {name: w[torch.from_numpy(self._touched[name])] for name, w in self._tables.weights.items()}

    def take(self, now: Tensors, published: Image | None) -> Changes:
        """Takes changes, in absolute values: no longer pending. Without `published`: all, and every dense tensor.

        now: the dense tensors as they are.
        """
        held = published.tables if published is not None else None
        tables = {name: self._take_table(name, held) for name in self._tables.weights}
        dense = {
            name: encode_dense(name, tensor, self._config)
            for name, tensor in now.items()
            if published is None or tensor.numel() <= SMALL or self._moved(tensor, published.dense[name])
        }
        return Changes(tables, dense)

    def _take_table(self, name: str, held: PlainTables | None) -> TableChange:
        weights, key_map = self._tables.weights[name], self._tables.key_maps[name]
        num_rows, touched = key_map.num_rows, self._touched[name]
        taken = np.flatnonzero(touched)
        own = taken[taken < num_rows]
        touched[own[~key_map.has_key(own)]] = False  # an evicted key may have left a free row behind
        taken = taken[touched[taken]]
        if held is not None:
            taken = taken[self._chosen(name, taken, held)]
        touched[taken] = False
        rows, tails = taken[taken < num_rows], taken[taken >= num_rows]
        keys = key_map.key_of(rows)
        order = np.argsort(keys)
        keys, rows = keys[order], rows[order]
        evicted = np.array(sorted(self._evicted[name]), np.uint64)
        self._evicted[name].clear()
        encoding = row_encoding(name, self._config)
        catalogued = np.zeros(len(rows), np.bool_)
        if name == self._tables.catalogue.table and len(self._unsent):
            # What left and came back has its old entry in replicas, or none.
            catalogued = self._unsent[rows] | np.isin(keys, evicted)
            self._unsent[rows] = False
        return TableChange(
            keys_K=keys,
            rows_K=rows,
            values_KD=encode(weights[torch.from_numpy(rows)], encoding),
            tails_W=tails - num_rows,
            tail_values_WD=encode(weights[torch.from_numpy(tails)], encoding),
            # One that came back has another row now: replicas must give up the old one, unless they get the new one.
            evicted_V=np.setdiff1d(evicted, keys, assume_unique=True),
            catalogued_C=keys[catalogued],
            entry_CS=self._tables.catalogue.entry_RS[rows[catalogued]] if catalogued.any() else _NO_ENTRIES,
        )

    def _chosen(self, name: str, rows_R: I64, held: PlainTables) -> I64:
        """Which of the rows go out, ascending: those that moved, the furthest first within the budget."""
        config, weights = self._config, self._tables.weights[name]
        now_RD = weights[torch.from_numpy(rows_R)]
        away_RD = now_RD - self._as_held(name, rows_R, held)
        away_R = torch.linalg.vector_norm(away_RD, dim=1)
        if name == STATISTICS:
            # A popular value's share of clicks is nothing beside its share of impressions, and is what is read: each
            # column counts by itself, against what it is with one event more.
            moved_R = (away_RD.abs() > config.moved * (now_RD + 1 / torch.tensor(MEMORY_OF_COLUMN))).any(dim=1)
        else:
            moved_R = away_R > config.moved * torch.linalg.vector_norm(now_RD, dim=1)
        chosen = moved_R.nonzero().squeeze(1)
        if config.row_budget is not None:
            cost = _ROW_OVERHEAD + row_bytes(weights.shape[1], row_encoding(name, config))
            most = max(1, config.row_budget // len(self._tables.weights) // cost)
            if len(chosen) > most:
                chosen = chosen[away_R[chosen].topk(most).indices].sort().values
        found: I64 = chosen.numpy()
        if name == self._tables.catalogue.table and len(self._unsent):
            own = np.flatnonzero(rows_R < len(self._unsent))
            found = np.union1d(found, own[self._unsent[rows_R[own]]])
        return found

    def _as_held(self, name: str, rows_R: I64, held: PlainTables) -> Tensor:
        """[R, D]: what replicas read for the keys that have these rows here, and in the tail rows."""
        num_rows, weights = self._tables.key_maps[name].num_rows, held.weights[name]
        own = rows_R < num_rows
        keys = self._tables.key_maps[name].key_of(rows_R[own])
        found = held.key_maps[name].find(keys)
        tail_rows = np.uint64(len(weights) - num_rows)
        there = rows_R.copy()
        there[own] = np.where(found >= 0, found, num_rows + (keys % tail_rows).astype(np.int64))
        return weights[torch.from_numpy(there)]

    def _moved(self, tensor: Tensor, held: Tensor) -> bool:
        return bool(torch.linalg.vector_norm(tensor - held) > self._config.moved * torch.linalg.vector_norm(tensor))

    def state(self, table: str) -> dict[str, np.ndarray]:
        state = {"touched": self._touched[table].copy(), "evicted": np.array(sorted(self._evicted[table]), np.uint64)}
        if table == self._tables.catalogue.table and len(self._unsent):
            state["unsent"] = self._unsent.copy()
        return state

    def restore(self, table: str, state: dict[str, np.ndarray]) -> None:
        self._touched[table][:] = state["touched"]
        self._evicted[table] = set(state["evicted"].tolist())
        if table == self._tables.catalogue.table and len(self._unsent):
            self._unsent[:] = state["unsent"]
