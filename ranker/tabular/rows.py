"""The embedding rows of all columns as one matrix: one gather a minibatch, one sparse gradient a step."""

# n rows of a minibatch, S slots, R embedding rows of all slots, D embedding width, K distinct rows of a minibatch.

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.config import ModelConfig
from ranker.inputs.batch import SlotValues


class ColumnRows(nn.Module):
    """The Embedder of a table: one value a row and column, no log. Row r of slot s is row start(s) + r."""

    start_S: Tensor

    def __init__(self, config: ModelConfig, *, scale: float) -> None:
        """Rows are drawn with standard deviation `scale`, from config.seed."""
        super().__init__()
        sizes = torch.tensor([table.rows + table.tail_rows for table in config.tables])
        self.register_buffer("start_S", sizes.cumsum(0) - sizes, persistent=False)
        generator = torch.Generator().manual_seed(config.seed)
        self.weight = nn.Parameter(torch.randn(int(sizes.sum()), config.width, generator=generator) * scale)

    def embed(self, slots: dict[str, SlotValues]) -> dict[str, Tensor]:
        """The slots in the order of the configuration's tables, rows_T being rows of a slot's own table."""
        rows_Sn = torch.stack([values.rows_T for values in slots.values()]) + self.start_S.unsqueeze(1)
        tokens_SnD = F.embedding(rows_Sn, self.weight, sparse=True)
        return dict(zip(slots, tokens_SnD.unbind(0), strict=True))

    def pool(self, values_TD: Tensor, lengths: Tensor) -> Tensor:
        raise ValueError("a column has one value a row: there is nothing to pool")

    def pad(self, values_ED: Tensor, lengths_B: Tensor, length: int) -> Tensor:
        raise ValueError("a table has no log: its tier needs log_length=0")
