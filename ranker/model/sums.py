"""Sums over the log: what a request's user did with which items, as tokens that meet the candidates in pairs.

    s_k = scale · Σ_e  a_k(action_e) · g_k(age_e) · x_e  /  √(1 + E)

with the embeddings x_e of the log's items: the implicit feedback of SVD++ (Koren, 2008, "Factorization Meets the
Neighborhood"), a sum for each kind of action, its recency learned. A candidate's product with such a sum is evidence
added up over the log, of all items that are like it. Attention averages instead: it says how the few most alike went.
"""

# B requests, L the longest log, E log events, K sums, D token width.

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.inputs.batch import Embedder
from ranker.model.tokens import ACTIONS, Log

AGES = 16
"""Buckets of age: powers of e seconds, the last for all of five weeks and more."""
SCALE = 0.3
"""About a single embedding's size for a sum over a log of unlike items: at full size, pairs with sums are noisier."""


class LogSums(nn.Module):
    """K sums of each request's log; at first, sum k takes the actions k, k + K, ... of any age alike."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.action_AK = nn.Parameter(torch.eye(count).repeat(-(-ACTIONS // count), 1)[:ACTIONS])
        self.age_GK = nn.Parameter(torch.ones(AGES, count))

    def forward(self, log: Log, item_ED: Tensor, embedder: Embedder) -> Tensor:
        """[B, K, D]; zeros for an empty log."""
        bucket_E = log.age_E.long().clamp_(0, AGES - 1)
        weight_EK = F.embedding(log.action_E, self.action_AK) * F.embedding(bucket_E, self.age_GK)
        if len(log.lengths_B) == 1:
            sum_BKD = (weight_EK.t() @ item_ED).unsqueeze(0)
        else:
            weight_BLK = embedder.pad(weight_EK, log.lengths_B, log.longest)
            sum_BKD = weight_BLK.transpose(1, 2) @ embedder.pad(item_ED, log.lengths_B, log.longest)
        scale_B = (1 + log.lengths_B).to(item_ED.dtype).rsqrt()
        return sum_BKD * (SCALE * scale_B).view(-1, 1, 1)
