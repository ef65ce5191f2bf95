"""Running statistics as the tiers read them: smoothed log-odds, each with a weight, straight to the logits.

    click logit      = Σ_s Σ_memories w · [log-odds((clicked + κ·p) / (shown + κ)) - log-odds(p)]
    conversion logit = Σ_s            w · [log-odds((bought + κ·q) / (clicked + κ)) - log-odds(q)]

p is what the weights of crosses expect of such a user and item, and q the model's prior of a conversion: the mean of a
beta distribution that counts as κ impressions (He et al., 2014; Ling et al., 2017). What was hardly ever shown has
log-odds near 0, so certainty needs no input of its own; those that were tried made all tiers worse (docs/decisions.md).
"""

# N candidates, S statistics, C columns, M memories, that of clicks last, H the two heads.

import torch
from torch import Tensor, nn

from ranker.config import STATISTIC_COLUMNS, STATISTICS
from ranker.inputs.batch import Embedder, SlotValues
from ranker.inputs.statistics import MEMORIES, OF_CLICKS
from ranker.model.evidence import PRIOR_BOUNDS
from ranker.model.init import log_odds

PRIOR_COUNT = 50.0
"""κ: impressions, and clicks, that the prior counts as."""


def read_statistics(statistics: SlotValues, count: int, embedder: Embedder) -> Tensor:
    """[N, S, C] of `count` statistics for each candidate; no gradient goes back to them."""
    return embedder.embed({STATISTICS: statistics})[STATISTICS].detach().view(-1, count, STATISTIC_COLUMNS)


class Statistics(nn.Module):
    """What the counts of a candidate's values add to its logits."""

    memory_M: Tensor
    prior_1: Tensor

    def __init__(self, statistics: int, conversion_prior: float) -> None:
        super().__init__()
        self.click_SM = nn.Parameter(torch.zeros(statistics, len(MEMORIES)))
        self.conversion_S1 = nn.Parameter(torch.zeros(statistics, 1))
        memories = torch.tensor([*MEMORIES, OF_CLICKS])
        self.register_buffer("memory_M", memories, persistent=False)
        self.register_buffer("prior_1", torch.tensor([log_odds(conversion_prior)]), persistent=False)

    def forward(self, statistics_NSC: Tensor, expected_N: Tensor) -> Tensor:
        """Logits [N, H]. expected_N: log-odds of a click by what is known besides, without gradient."""
        N, clicks = expected_N.shape[0], len(MEMORIES)
        tried_NSM = statistics_NSC[..., 0::2] * self.memory_M
        positive_NSM = statistics_NSC[..., 1::2] * self.memory_M
        expected_N1 = expected_N.clamp(*_BOUNDS).unsqueeze(1)
        prior_NM = torch.cat([*[expected_N1] * clicks, self.prior_1.expand(N, 1)], dim=1)
        odds_NSM = smoothed_odds(positive_NSM, tried_NSM, prior_NM.unsqueeze(1))
        weighted_NM = (odds_NSM * torch.cat([self.click_SM, self.conversion_S1], dim=1)).sum(dim=1)
        return torch.stack([weighted_NM[:, :clicks].sum(dim=1), weighted_NM[:, clicks]], dim=1)


def smoothed_odds(positive: Tensor, tried: Tensor, prior: Tensor) -> Tensor:
    """How the log-odds of these counts differ from the prior's, which are given; 0 where nothing was tried."""
    before = PRIOR_COUNT * torch.sigmoid(prior)
    positive = positive.clamp(min=0)  # an update may bring anything
    negative = (tried - positive).clamp(min=0)
    return torch.log((positive + before) / (negative + (PRIOR_COUNT - before))) - prior


_BOUNDS = [log_odds(bound) for bound in PRIOR_BOUNDS]
