"""What the input tokens say without any layer: linear terms, and products of a candidate's tokens with all.

    logit = Σ_t <a_t, x_t> + Σ_v <x_v, W_v · [U; V]>

with the tokens x of the request (U) and the candidate (V): a field-weighted factorization machine (Pan et al., 2018,
"Field-weighted Factorization Machines for Click-Through Rate Prediction in Display Advertising") beside the layers, as
the wide part stands beside the deep one (Cheng et al., 2016). Ids and pairs of ids are learned by it within a few
examples; the layers are left with what is not so simple.
"""

# B requests, N candidates, U and V input tokens of user and candidate, H the two heads, D token width.

import torch
from torch import Tensor, nn

from kernels.linear_compress import Compress
from ranker.model.init import linear

SMALL = 0.1
"""Gain of what makes a logit, so that a fresh tier predicts about the prior for everything rather than noise."""


class DirectLogits(nn.Module):
    """Linear and pairwise terms of the tokens. The request's part of both is computed once and added by index."""

    def __init__(self, *, heads: int, user_tokens: int, item_tokens: int, width: int, compress: Compress) -> None:
        super().__init__()
        self.compress = compress
        self.heads = heads
        self.user = linear(user_tokens * width, heads, gain=SMALL)
        self.item = linear(item_tokens * width, heads, gain=SMALL)
        # A pair's weight starts at 1, that of a plain factorization machine; a pair within the candidate is met twice.
        self.pairs_user_PU = nn.Parameter(torch.ones(heads * item_tokens, user_tokens))
        within_VV = (1 - torch.eye(item_tokens)) / 2
        self.pairs_item_PV = nn.Parameter(within_VV.repeat(heads, 1))

    def forward(self, user_BUD: Tensor, item_NVD: Tensor, request_of_N: Tensor) -> Tensor:
        """[N, H], in the tokens' dtype."""
        linear_BH = self.user(user_BUD.flatten(1))
        if linear_BH.shape[0] != 1:
            linear_BH = linear_BH.index_select(0, request_of_N)
        met_NPD = self.compress(user_BUD, item_NVD, request_of_N, self.pairs_user_PU, self.pairs_item_PV)
        _, V, D = item_NVD.shape
        pairs_NH = (met_NPD.view(-1, self.heads, V, D) * item_NVD.unsqueeze(1)).sum((2, 3))
        logits_NH: Tensor = self.item(item_NVD.flatten(1)) + linear_BH + pairs_NH
        return logits_NH
