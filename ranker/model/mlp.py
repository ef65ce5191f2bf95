"""Two linear layers with a ReLU between them: what all blocks of a tier are made of, and what pruning cuts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.model.init import AFTER_RELU, linear


class Mlp(nn.Module):
    """down(dropout(relu(up(x)))), without biases. No activation on the way out: signs matter to what multiplies it."""

    def __init__(self, size_in: int, hidden: int, size_out: int, *, dropout: float = 0.0, gain: float = 1.0) -> None:
        """gain: scale of the fresh output, 1 being that of the input."""
        super().__init__()
        self.up = linear(size_in, hidden)
        self.down = linear(hidden, size_out, gain=gain * AFTER_RELU)
        self.dropout = dropout

    def forward(self, x_nI: Tensor) -> Tensor:
        hidden_nH = F.relu(self.up(x_nI))
        if self.dropout:
            hidden_nH = F.dropout(hidden_nH, self.dropout, self.training)
        out_nO: Tensor = self.down(hidden_nH)
        return out_nO

    @torch.no_grad()
    def keep(self, units_K: Tensor) -> None:
        """Keep these hidden units, int64 [K], and no others: the rest is gone, not zero."""
        self.up.weight = nn.Parameter(self.up.weight[units_K].clone())
        self.down.weight = nn.Parameter(self.down.weight[:, units_K].clone())
        self.up.out_features = self.down.in_features = len(units_K)
