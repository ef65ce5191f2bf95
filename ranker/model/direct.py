"""What the input tokens say without any layer: a term for each token, and one for each pair across the two sides.

    logit = Σ_u <a_u, x_u> + Σ_v <b_v + Σ_u w_vu · x_u, x_v>

with the tokens x of the request (u) and of the candidate (v): the linear terms of Cheng et al., 2016 ("Wide & Deep
Learning for Recommender Systems") and the pairs of a field-weighted factorization machine (Pan et al., 2018), those
within one side left out: an item's own id says what its features say together. What stands in the brackets is of the
request alone, so a candidate costs one product of its tokens with it.
"""

# B requests, N candidates, C the most candidates of a request, U and V input tokens of user and candidate, D token
# width, I = V · D, H the two heads, P = H · V.

import torch
from torch import Tensor, nn

from ranker.model.init import normal
from ranker.model.reader import Grouping

SMALL = 0.1
"""Gain of what makes a logit, so that a fresh tier predicts about the prior for everything rather than noise."""


class DirectLogits(nn.Module):
    """Linear and pairwise terms, float32.

    Pairs weigh nothing at first: products of fresh embeddings are noise, of which a start at 1 made overconfident
    predictions for thousands of examples.
    """

    def __init__(self, *, heads: int, user_tokens: int, item_tokens: int, width: int) -> None:
        super().__init__()
        self.user_HJ = normal(heads, user_tokens * width, fan_in=user_tokens * width, gain=SMALL)
        self.item_HI = normal(heads, item_tokens * width, fan_in=item_tokens * width, gain=SMALL)
        self.pairs_PU = nn.Parameter(torch.zeros(heads * item_tokens, user_tokens))

    def forward(self, user_BUD: Tensor, item_NVD: Tensor, grouping: Grouping) -> Tensor:
        """[N, H]."""
        user_BUD, item_NI = user_BUD.float(), item_NVD.float().flatten(1)
        met_BHI = torch.matmul(self.pairs_PU, user_BUD).view(len(user_BUD), *self.item_HI.shape)
        user_BH = user_BUD.flatten(1) @ self.user_HJ.t()
        if len(user_BUD) == 1:  # in serving: fewer, and smaller, operators
            return torch.addmm(user_BH, item_NI, (self.item_HI + met_BHI[0]).t())
        logits_BCH = grouping.pad(item_NI) @ (self.item_HI + met_BHI).transpose(1, 2) + user_BH.unsqueeze(1)
        return grouping.unpad(logits_BCH)
