"""Pairs of a candidate's own tokens as a term of its logits: a field-weighted factorization machine.

    logit = Σ_{v < w} p_vw · <x_v, x_w>

with the candidate's tokens x and a weight for each pair of them (Pan et al., 2018, "Field-weighted Factorization
Machines for Click-Through Rate Prediction in Display Advertising"). DirectLogits pairs across the two sides; where all
is of one side, as in a plain table, it has no pair to weigh. These cost V² · D a candidate, which none can share.
"""

# N candidates, V input tokens of a candidate, D token width, P = V · (V - 1) / 2 pairs, H the two heads.

import torch
from torch import Tensor, nn


class ItemPairs(nn.Module):
    """A weight for each pair and head, zero at first: products of fresh embeddings are noise."""

    index_2P: Tensor

    def __init__(self, *, heads: int, item_tokens: int) -> None:
        super().__init__()
        index_2P = torch.triu_indices(item_tokens, item_tokens, offset=1)
        self.pairs_HP = nn.Parameter(torch.zeros(heads, index_2P.shape[1]))
        self.register_buffer("index_2P", index_2P, persistent=False)

    def forward(self, item_NVD: Tensor) -> Tensor:
        """[N, H], float32. One token has no pair: zeros."""
        item_NVD = item_NVD.float()
        products_NVV = item_NVD @ item_NVD.transpose(1, 2)
        products_NP = products_NVV[:, self.index_2P[0], self.index_2P[1]]
        return products_NP @ self.pairs_HP.t()
