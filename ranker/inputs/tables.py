"""Embedding tables: how they start, and as plain tensors for serving.

A table has `rows` rows with a key of their own, which start at zero and are unread until a key gets them, and behind
them `tail_rows` rows that all other keys share by hash.
"""

# T values, E log events, B sequences, D embedding width, R all rows of a table.

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ranker.config import LOG, ModelConfig, TableConfig
from ranker.inputs.batch import SlotValues
from ranker.inputs.evidence import Catalogue
from ranker.inputs.hashing import hash64, salted
from ranker.inputs.keymap import KeyMap

_CPU = torch.device("cpu")
_INITIAL_SCALE = 0.2
"""Half the width of the uniform distribution that tail rows start from."""


def initial_weights(config: ModelConfig, table: TableConfig) -> Tensor:
    """float32 [rows + tail_rows, width], a function of the configuration alone.

    Taken from hashes, not from a generator: every process and every version of torch starts from the same bits.
    Weights of crosses, and counts, start at zero.
    """
    width = config.row_width(table.name)
    weights = torch.zeros(table.rows + table.tail_rows, width)
    if table.name in config.hashed:
        return weights
    cells = np.arange(table.tail_rows * width, dtype=np.uint64)
    bits = salted(cells ^ np.uint64(hash64(f"{config.seed}/{table.name}")), "initial") >> np.uint64(40)  # 24 of them
    uniform = bits.astype(np.float32) / np.float32(2**23) - np.float32(1)  # exact in float32
    weights[table.rows :] = torch.from_numpy(uniform * np.float32(_INITIAL_SCALE)).reshape(-1, width)
    return weights


def table_of_slots(config: ModelConfig) -> dict[str, str]:
    """Slot name → table name, log, crosses and statistics included."""
    named = {s.name: s.table for s in config.slots if s.kind == "categorical"} | {LOG: config.item_table}
    return named | {name: name for name in config.hashed}


def new_catalogue(config: ModelConfig) -> Catalogue:
    """Returns an empty one, of as many rows as the item table has."""
    rows = next(table.rows for table in config.tables if table.name == config.item_table)
    return Catalogue(config.item_table, config.catalogued, rows)


class PlainTables:
    """The Embedder of serving. Weights never move: they are changed in place."""

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device = _CPU,
        *,
        key_maps: dict[str, KeyMap] | None = None,
        weights: dict[str, Tensor] | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        """key_maps, weights: by table, to be held as they are, as is the catalogue; fresh ones where not given."""
        self._config = config
        self._table_of = table_of_slots(config)
        self.key_maps = key_maps or {t.name: KeyMap(t.rows) for t in config.every_table}
        self.catalogue = catalogue or new_catalogue(config)
        self.weights = weights or {t.name: initial_weights(config, t).to(device) for t in config.every_table}

    def reset(self) -> None:
        """Back to the start, at the same addresses."""
        for table in self._config.every_table:
            self.key_maps[table.name].clear()
            self.weights[table.name].copy_(initial_weights(self._config, table))
        self.catalogue.entry_RS[:] = 0

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        return {name: F.embedding(v.rows_T, self.weights[self._table_of[name]]) for name, v in slots.items()}

    def pool(self, values_TD: Tensor, lengths: Tensor) -> Tensor:
        owner_T = torch.repeat_interleave(lengths)
        sums = values_TD.new_zeros(lengths.shape[0], values_TD.shape[1]).index_add_(0, owner_T, values_TD)
        return sums / lengths.clamp(min=1).unsqueeze(1)

    def pad(self, values_ED: Tensor, lengths_B: Tensor, length: int) -> Tensor:
        if values_ED.shape[0] == 0:
            return values_ED.new_zeros(lengths_B.shape[0], length, values_ED.shape[1])
        column_L = torch.arange(length, device=values_ED.device)
        start_B = torch.cumsum(lengths_B, 0) - lengths_B
        index_BL = (start_B.unsqueeze(1) + column_L).clamp(max=values_ED.shape[0] - 1)
        inside_BL = column_L < lengths_B.unsqueeze(1)
        return values_ED[index_BL] * inside_BL.unsqueeze(2)
