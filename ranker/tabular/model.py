"""A tier over the rows of a table.

All columns are candidate slots, and the rows of a minibatch are the candidates of one request without a user: what the
request's side adds is the same for all of them.
"""

# N rows of a table, n of a minibatch, S slots, F numeric columns.

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.linear_compress import bind
from ranker.arrays import F64
from ranker.config import ModelConfig
from ranker.inputs.batch import Batch, SlotValues
from ranker.model.heads import CLICK
from ranker.model.tier import Logits, Tier, count_parameters
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
        """Logits [n], calibrated in evaluation mode.

        rows_nS: int64, rows of each slot's own table; dense_nF: float32.
        """
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
            longest=0,
        )
        # There is one position, so what training adds for it is what serving adds.
        position_n = torch.zeros(n, dtype=torch.int64) if self.training else None
        logits: Logits = self.tier(batch, self.rows, position_n)
        return logits.click_N

    def predict(self, data: Encoded) -> F64:
        """Probabilities [N], calibrated; leaves the model in evaluation mode."""
        probability_N: F64 = self._logits(data).sigmoid().numpy()
        return probability_N

    @torch.no_grad()
    def calibrate(self, data: Encoded) -> None:
        """Scale and shift the logits as fits these labels best (Platt, 1999): training makes them too sure."""
        self.tier.calibration[CLICK] = torch.tensor([1.0, 0.0])
        self.tier.calibration[CLICK] = platt(self._logits(data), data.label_N.double())

    @torch.no_grad()
    def _logits(self, data: Encoded) -> Tensor:
        """float64 [N], in evaluation mode."""
        self.eval()
        logits = [
            self(rows_nS.long(), dense_nF)
            for rows_nS, dense_nF in zip(
                torch.split(data.rows_NS, PREDICT_ROWS), torch.split(data.dense_NF, PREDICT_ROWS), strict=True
            )
        ]
        return torch.cat(logits).double()

    @property
    def parameters_of(self) -> dict[str, int]:
        """Numbers of them: of the tier, and in embedding rows."""
        return {"tier": count_parameters(self.tier), "rows": self.rows.weight.numel()}


@torch.enable_grad()
def platt(logit_N: Tensor, label_N: Tensor) -> Tensor:
    """float32 [2]: scale (at least 0.05, so that the order stays) and shift of the logits with the least log loss.

    float64 [N] each. A weak prior at 1 and 0 keeps the fit finite where the labels can be told apart.
    """
    fit_2 = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    start_2 = fit_2.detach().clone()
    optimizer = torch.optim.LBFGS([fit_2], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fitted = F.binary_cross_entropy_with_logits(fit_2[0] * logit_N + fit_2[1], label_N)
        penalized = fitted + (fit_2 - start_2).square().sum() / len(label_N)
        penalized.backward()  # type: ignore[no-untyped-call]
        return penalized

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return torch.stack([fit_2[0].clamp(min=0.05), fit_2[1]]).detach().float()
