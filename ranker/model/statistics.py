"""Running statistics as the tiers read them: smoothed log-odds, each with a weight, straight to the logits.

    click logit      = Σ_s Σ_memories w · [log-odds((clicked + κ·p) / (shown + κ)) - log-odds(p)]
    conversion logit = Σ_s            w · [log-odds((bought + κ·q) / (clicked + κ)) - log-odds(q)]

p is what the weights of crosses expect of such a user and item, and q the model's prior of a conversion: the mean of a
beta distribution that counts as κ impressions (He et al., 2014; Ling et al., 2017). What was hardly ever shown has
log-odds near 0, so certainty needs no input of its own; those that were tried made all tiers worse (docs/decisions.md).
"""

# N candidates, S statistics, C columns, M memories, H the two heads.

import torch
from torch import Tensor, nn

from ranker.config import STATISTIC_COLUMNS, STATISTICS
from ranker.inputs.batch import Embedder, SlotValues
from ranker.inputs.statistics import CLICKED, CONVERTED, JUDGED, MEMORIES, OF_CLICKS, SHOWN
from ranker.model.evidence import PRIOR_BOUNDS

PRIOR_COUNT = 50.0
"""κ: impressions, and clicks, that the prior counts as."""


def read_statistics(statistics: SlotValues, count: int, embedder: Embedder) -> Tensor:
    """[N, S, C] of `count` statistics for each candidate; no gradient goes back to them."""
    return embedder.embed({STATISTICS: statistics})[STATISTICS].detach().view(-1, count, STATISTIC_COLUMNS)


def smoothed_odds(positive: Tensor, tried: Tensor, prior: Tensor) -> Tensor:
    """How the log-odds of these counts differ from those of the prior; 0 where nothing was tried."""
    negative, against = tried - positive, 1 - prior
    return torch.log((positive + PRIOR_COUNT * prior) / (negative + PRIOR_COUNT * against)) - torch.log(prior / against)


class Statistics(nn.Module):
    """What the counts of a candidate's values add to its logits."""

    def __init__(self, statistics: int, conversion_prior: float) -> None:
        super().__init__()
        self._conversion_prior = conversion_prior
        self.click_SM = nn.Parameter(torch.zeros(statistics, len(MEMORIES)))
        self.conversion_S = nn.Parameter(torch.zeros(statistics))

    def forward(self, statistics_NSC: Tensor, prior_N: Tensor) -> Tensor:
        """Logits [N, H]. prior_N: probability of a click by what is known besides, without gradient."""
        memory_M = statistics_NSC.new_tensor(MEMORIES)
        shown_NSM, clicked_NSM = (statistics_NSC[..., first:JUDGED:2] * memory_M for first in (SHOWN, CLICKED))
        click_NSM = smoothed_odds(clicked_NSM, shown_NSM, prior_N.clamp(*PRIOR_BOUNDS)[:, None, None])
        judged_NS, bought_NS = (OF_CLICKS * statistics_NSC[..., column] for column in (JUDGED, CONVERTED))
        bought_NS = smoothed_odds(bought_NS, judged_NS, prior_N.new_tensor(self._conversion_prior))
        click_N, conversion_N = (click_NSM * self.click_SM).sum(dim=(1, 2)), bought_NS @ self.conversion_S
        return torch.stack([click_N, conversion_N], dim=1)
