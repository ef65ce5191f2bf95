"""Embedding tables for training: a TorchRec collection fed with jagged tensors, pooled and padded by FBGEMM.

The only file that imports TorchRec and FBGEMM. Gradients are sparse, so that what a step touched is known: that is
what the optimizer changes and what an update carries.
"""

# T values, E log events, B sequences, D embedding width, R all rows of a table.

from collections.abc import Iterator

import fbgemm_gpu  # noqa: F401  registers torch.ops.fbgemm
import torch
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ranker.batch import SlotValues
from ranker.config import ModelConfig
from ranker.keymap import KeyMap
from ranker.tables import initial_weights, table_of_slots


class TorchRecTables:
    """The Embedder of training; the same contract as PlainTables, and differentiable."""

    def __init__(self, config: ModelConfig) -> None:
        self._table_of = table_of_slots(config)
        self.key_maps = {t.name: KeyMap(t.rows) for t in config.tables}
        self._collection = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    # Modules cannot be named as a method of their container is ("items"), so all get a prefix.
                    name=f"table_{t.name}",
                    embedding_dim=config.width,
                    num_embeddings=t.rows + t.tail_rows,
                    feature_names=[slot for slot, table in self._table_of.items() if table == t.name],
                )
                for t in config.tables
                if t.name in self._table_of.values()
            ]
        )
        self._parameters: dict[str, Tensor] = {}
        for table in config.tables:
            if table.name in self._table_of.values():
                module = self._collection.embeddings[f"table_{table.name}"]
                module.sparse = True
                with torch.no_grad():
                    module.weight.copy_(initial_weights(config, table))
                self._parameters[table.name] = module.weight
        self.weights = {name: parameter.detach() for name, parameter in self._parameters.items()}

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        none = torch.empty(0, dtype=torch.int64)
        rows = [slots[name].rows_T if name in slots else none for name in self._table_of]
        jagged = KeyedJaggedTensor(
            keys=list(self._table_of),
            values=torch.cat(rows),
            lengths=torch.tensor([len(r) for r in rows]),
            stride=1,  # one "sample" a slot: which values are whose is kept beside it, in lengths
        )
        embedded = self._collection(jagged)
        return {name: embedded[name].values() for name in slots}

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
