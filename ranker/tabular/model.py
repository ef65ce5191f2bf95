"""A tier over the rows of a table.

All columns are candidate slots, and the rows of a minibatch are the candidates of one request without a user: what the
request's side adds is the same for all of them.
"""

# N rows of a table, n of a minibatch, S slots, F numeric columns.

import numpy as np
import torch
from torch import Tensor, nn

from kernels.linear_compress import bind
from ranker.batch import Batch, SlotValues
from ranker.config import ModelConfig
from ranker.model.tier import Logits, Tier, count_parameters
from ranker.tabular.columns import F64
from ranker.tabular.encoding import Encoded
from ranker.tabular.rows import ColumnRows

PREDICT_ROWS = 4096


class TabularModel(nn.Module):
    """The tier of a configuration that has one, and the embedding rows of its columns."""

    def __init__(self, config: ModelConfig, *, row_scale: float = 0.01) -> None:
        """Rows start with standard deviation row_scale."""
        super().__init__()
        self.config = config
        self._slots = [s.name for s in config.slots if s.kind == "categorical"]
        self.rows = ColumnRows(config, scale=row_scale)
        (tier,) = config.tiers
        self.tier = Tier(config, tier, compress=bind("decomposed"))

    def forward(self, rows_nS: Tensor, dense_nF: Tensor) -> Tensor:
        """Logits [n]. rows_nS: integers, rows of each slot's own table; dense_nF: float32."""
        n = rows_nS.shape[0]
        slots = {name: SlotValues(rows_n, None) for name, rows_n in zip(self._slots, rows_nS.T, strict=True)}
        none, no_ids = torch.empty(0), torch.empty(0, dtype=torch.int64)
        batch = Batch(
            request_of_N=torch.zeros(n, dtype=torch.int64),
            slots=slots,
            dense_user_BF=torch.empty(1, 0),
            dense_item_NF=dense_nF,
            log_action_E=no_ids,
            log_surface_E=no_ids,
            log_age_E=none,
            log_value_E=none,
        )
        logits: Logits = self.tier(batch, self.rows, None)
        return logits.click_N

    @torch.no_grad()
    def predict(self, data: Encoded) -> F64:
        """Probabilities [N], in evaluation mode."""
        self.eval()
        logits = [
            self(rows_nS.long(), dense_nF)
            for rows_nS, dense_nF in zip(
                torch.split(data.rows_NS, PREDICT_ROWS), torch.split(data.dense_NF, PREDICT_ROWS), strict=True
            )
        ]
        probability_N: F64 = torch.cat(logits).sigmoid().numpy().astype(np.float64)
        return probability_N

    @property
    def parameters_of(self) -> dict[str, int]:
        """Numbers of them: of the tier, and in embedding rows."""
        return {"tier": count_parameters(self.tier), "rows": self.rows.weight.numel()}
