"""What the input tokens say without any layer: a term for each token.

    logit = Σ_u <a_u, x_u> + Σ_v <b_v, x_v>

with the tokens x of the request (u) and of the candidate (v): that an id is clicked more than others is learned as soon
as its embedding is, not when the layers are (the linear terms of Cheng et al., 2016, "Wide & Deep Learning for
Recommender Systems").
"""

# B requests, N candidates, U and V input tokens of user and candidate, D token width, J = U · D, I = V · D, H the two
# heads.

from torch import Tensor, nn

from ranker.model.init import normal

SMALL = 0.1
"""Gain of what makes a logit, so that a fresh tier predicts about the prior for everything rather than noise."""


class DirectLogits(nn.Module):
    """Linear terms, float32."""

    def __init__(self, *, heads: int, user_tokens: int, item_tokens: int, width: int) -> None:
        super().__init__()
        self.user_HJ = normal(heads, user_tokens * width, fan_in=user_tokens * width, gain=SMALL)
        self.item_HI = normal(heads, item_tokens * width, fan_in=item_tokens * width, gain=SMALL)

    def forward(self, user_BUD: Tensor, item_NVD: Tensor, request_of_N: Tensor) -> Tensor:
        """[N, H]."""
        user_BH = user_BUD.float().flatten(1) @ self.user_HJ.t()
        item_NH = item_NVD.float().flatten(1) @ self.item_HI.t()
        return item_NH + user_BH.index_select(0, request_of_N)
