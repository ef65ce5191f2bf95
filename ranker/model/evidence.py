"""Evidence from the log as the tiers read it: smoothed log-odds with their certainty, as a token and as a logit.

Of each configured slot's counts (ranker/inputs/evidence.py), by decay: how the log-odds of a click among what was shown
differ from what was expected, and the logarithm of how many were shown, which says how sure that is; then what is worth
more than a click, and the two ages. Expected is what the weights of crosses say of such a user and item: the mean of a
beta distribution that counts as some impressions (smoothing as of He et al., 2014, and Ling et al., 2017, with a prior
of each pair's own). So a candidate of which nothing is known, and one that was clicked as often as any, look alike.
"""

# N candidates, S slots, C columns of counts, K inputs of a slot, I inputs in all, h hidden units, H the two heads.

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.inputs.evidence import ACTED, CLICKED, COUNTS, DECAYS_S, NEVER, SHOWN
from ranker.model.init import AFTER_RELU, BESIDE_EMBEDDINGS, linear, log_odds

PRIOR_SHOWN = 10.0
"""Impressions that the prior counts as."""
PRIOR_BOUNDS = (0.005, 0.9)
INPUTS = 2 * len(DECAYS_S) + 3


def evidence_inputs(evidence_NSC: Tensor, prior_N: Tensor) -> Tensor:
    """[N, S, K], each about of unit size; of no events: zeros but for the ages. prior_N: probability of a click."""
    N, S, _ = evidence_NSC.shape
    counts_NSDk = evidence_NSC[..., :COUNTS].reshape(N, S, len(DECAYS_S), 3)
    shown_NSD, clicked_NSD = counts_NSDk[..., SHOWN], counts_NSDk[..., CLICKED]
    prior_N11 = prior_N[:, None, None]
    odds_NSD = torch.log((clicked_NSD + PRIOR_SHOWN * prior_N11) / (shown_NSD + PRIOR_SHOWN)) - torch.log(prior_N11)
    sure_NSD = torch.log1p(shown_NSD) / 2
    acted_NS1 = torch.log1p(counts_NSDk[..., 0, ACTED]).unsqueeze(2)
    ages_NS2 = evidence_NSC[..., COUNTS:] / float(NEVER)
    return torch.cat([odds_NSD, sure_NSD, acted_NS1, ages_NS2], dim=2)


class Evidence(nn.Module):
    """One token a candidate, and what goes straight to its logits: linear, and through two hidden layers."""

    def __init__(self, *, slots: int, hidden: int, width: int, heads: int, prior: float) -> None:
        super().__init__()
        inputs = slots * INPUTS + 1
        self.bias = nn.Parameter(torch.tensor(log_odds(prior)))
        self.up = linear(inputs, hidden)
        self.up_bias = nn.Parameter(torch.zeros(hidden))
        self.across = linear(hidden, hidden, gain=AFTER_RELU)
        self.across_bias = nn.Parameter(torch.zeros(hidden))
        self.token = linear(hidden, width, gain=BESIDE_EMBEDDINGS * AFTER_RELU)
        self.hidden_Hh = nn.Parameter(torch.zeros(heads, hidden))
        self.linear_HI = nn.Parameter(torch.zeros(heads, inputs))

    def forward(self, evidence_NSC: Tensor, expected_N: Tensor) -> tuple[Tensor, Tensor]:
        """Token [N, D] and logits [N, H].

        expected_N: logit of a click by the crosses of users and items, without gradient.
        """
        prior_N = torch.sigmoid(expected_N + self.bias.detach()).clamp(*PRIOR_BOUNDS)
        counted_NJ = evidence_inputs(evidence_NSC, prior_N).flatten(1)
        inputs_NI = torch.cat([counted_NJ, expected_N.unsqueeze(1)], dim=1)
        hidden_Nh = F.relu(self.up(inputs_NI) + self.up_bias)
        hidden_Nh = F.relu(self.across(hidden_Nh) + self.across_bias)
        token_ND: Tensor = self.token(hidden_Nh)
        logits_NH = inputs_NI @ self.linear_HI.t() + hidden_Nh @ self.hidden_Hh.t()
        return token_ND, logits_NH
