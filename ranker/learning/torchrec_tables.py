"""Embedding tables for training as a TorchRec collection, which can be sharded. The only file that imports TorchRec."""

import torch
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ranker.config import ModelConfig
from ranker.inputs.batch import SlotValues
from ranker.learning.trained_tables import TrainedTables


class TorchRecTables(TrainedTables):
    """The same tables; their rows are looked up by collections, one a width, that are fed with jagged tensors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        widths = {parameter.shape[1] for parameter in self._parameters.values()}
        self._lookups = [self._collection(width) for width in sorted(widths)]

    def _collection(self, width: int) -> tuple[list[str], EmbeddingCollection]:
        """Slots whose tables are this wide, and their collection."""
        tables = {name: p for name, p in self._parameters.items() if p.shape[1] == width}
        collection = EmbeddingCollection(
            device=torch.device("meta"),  # the weights are those of TrainedTables
            tables=[
                EmbeddingConfig(
                    # Modules cannot be named as a method of their container is ("items"), so all get a prefix.
                    name=f"table_{name}",
                    embedding_dim=width,
                    num_embeddings=len(parameter),
                    feature_names=[slot for slot, table in self._table_of.items() if table == name],
                )
                for name, parameter in tables.items()
            ],
        )
        for name, parameter in tables.items():
            module = collection.embeddings[f"table_{name}"]
            module.sparse = True
            module.weight = parameter
        return [slot for slot, table in self._table_of.items() if table in tables], collection

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        none = torch.empty(0, dtype=torch.int64)
        found: dict[str, Tensor] = {}
        for names, collection in self._lookups:
            if slots.keys().isdisjoint(names):
                continue
            rows = [slots[name].rows_T if name in slots else none for name in names]
            jagged = KeyedJaggedTensor(
                keys=names,
                values=torch.cat(rows),
                lengths=torch.tensor([len(r) for r in rows]),
                stride=1,  # one "sample" a slot: which values are whose is kept beside it, in lengths
            )
            embedded = collection(jagged)
            found |= {name: embedded[name].values() for name in names if name in slots}
        return found
