"""The model as it was at some moment: what the live one is compared with."""

# N candidates over all responses.

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ranker.arrays import F32
from ranker.config import ModelConfig
from ranker.engine import predict
from ranker.inputs.features import Featurizer, KeyedBatch
from ranker.inputs.keymap import KeyMap
from ranker.inputs.tables import PlainTables
from ranker.learning.trained_tables import TrainedTables
from ranker.updates.image import Tiers, dense_tensors


@dataclass(frozen=True, slots=True)
class ModelCopy:
    tiers: Tiers
    tables: PlainTables

    @classmethod
    def of(cls, config: ModelConfig, tiers: Tiers, tables: TrainedTables) -> "ModelCopy":
        """Shares nothing with what it was copied from."""
        room = PlainTables(
            config,
            key_maps={name: KeyMap(key_map.num_rows) for name, key_map in tables.key_maps.items()},
            weights={name: torch.empty_like(weights) for name, weights in tables.weights.items()},
        )  # with a catalogue of its own
        copied = cls({name: copy.deepcopy(t).requires_grad_(False).eval() for name, t in tiers.items()}, room)
        copied.copy_from(tiers, tables)
        return copied

    @torch.no_grad()
    def copy_from(self, tiers: Tiers, tables: TrainedTables) -> None:
        """Be as these are now: in memory that is there, a large table takes a tenth of the time of a new copy."""
        dense = dense_tensors(self.tiers)
        for name, tensor in dense_tensors(tiers).items():
            dense[name].copy_(tensor)
        for name, key_map in tables.key_maps.items():
            self.tables.key_maps[name].copy_from(key_map)
        for name, weights in tables.weights.items():
            self.tables.weights[name].copy_(weights)
        np.copyto(self.tables.catalogue.entry_RS, tables.catalogue.entry_RS)

    def predict(
        self, featurizer: Featurizer, sizes: Sequence[int], served: Sequence[tuple[str, list[int], KeyedBatch]]
    ) -> tuple[F32, F32]:
        """pCTR and pCVR [N] as this model would have served them, each response by the tier that served it.

        sizes: candidates of each response. served: see served_keys.
        """
        starts = np.cumsum([0, *sizes])
        p_2N = np.zeros((2, starts[-1]), np.float32)
        for tier, indices, keyed in served:
            where = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in indices])
            p_2N[:, where] = predict(featurizer, self.tiers, self.tables, tier, keyed)
        return p_2N[0], p_2N[1]
