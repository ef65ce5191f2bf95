"""Embedding tables for training, pooled and padded by FBGEMM, looked up by TorchRec where that is installed.

Gradients are sparse, so that what a step touched is known: that is what the optimizer changes and what an update
carries.
"""

# T values, E log events, B sequences, D embedding width.

from collections.abc import Iterator
from importlib.util import find_spec

import fbgemm_gpu  # noqa: F401  registers torch.ops.fbgemm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ranker.config import ModelConfig
from ranker.inputs.batch import SlotValues
from ranker.inputs.keymap import KeyMap
from ranker.inputs.tables import initial_weights, new_catalogue, table_of_slots


class TrainedTables:
    """The Embedder of training; the same contract as PlainTables, and differentiable."""

    def __init__(self, config: ModelConfig) -> None:
        self._table_of = table_of_slots(config)
        self.key_maps = {t.name: KeyMap(t.rows) for t in config.every_table}
        self.catalogue = new_catalogue(config)
        self._parameters = {
            t.name: nn.Parameter(initial_weights(config, t))
            for t in config.every_table
            if t.name in self._table_of.values()
        }
        self.weights = {name: parameter.detach() for name, parameter in self._parameters.items()}

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        return {
            name: F.embedding(v.rows_T, self._parameters[self._table_of[name]], sparse=True)
            for name, v in slots.items()
        }

    def pool(self, values_TD: Tensor, lengths: Tensor) -> Tensor:
        longest = int(lengths.max()) if len(lengths) else 0
        if longest == 0:
            return values_TD.new_zeros(lengths.shape[0], values_TD.shape[1])
        return self.pad(values_TD, lengths, longest).sum(dim=1) / lengths.clamp(min=1).unsqueeze(1)

    def pad(self, values_ED: Tensor, lengths_B: Tensor, length: int) -> Tensor:
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(lengths_B)
        padded: Tensor = torch.ops.fbgemm.jagged_to_padded_dense(values_ED, [offsets], [length], 0.0)
        return padded

    def gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Table, rows int64 [n] ascending, gradients float32 [n, D]: of each table that got any."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                gradient = parameter.grad.coalesce()
                yield name, gradient.indices()[0], gradient.values()

    def zero_grad(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None


def trained_tables(config: ModelConfig) -> TrainedTables:
    """Whichever looks rows up: to the bit they are the same.

    TorchRec is no package that the workers ask for, because its own metadata asks for the CUDA build of FBGEMM, which
    does not load without an NVIDIA driver, and pip knows no exceptions.
    """
    if find_spec("torchrec") is None:
        return TrainedTables(config)
    from ranker.learning.torchrec_tables import TorchRecTables

    return TorchRecTables(config)
