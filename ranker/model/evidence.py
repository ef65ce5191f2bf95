"""Evidence from the log as the tiers read it: smoothed log-odds with their certainty, straight to the logits.

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

from ranker.inputs.evidence import COUNTS, DECAYS_S, NEVER
from ranker.model.init import linear, log_odds

PRIOR_SHOWN = 10.0
"""Impressions that the prior counts as."""
PRIOR_BOUNDS = (0.005, 0.9)
_DECAYS = len(DECAYS_S)
INPUTS = 2 * _DECAYS + 3


def evidence_inputs(evidence_NSC: Tensor, prior_N: Tensor) -> Tensor:
    """[N, S, K], each about of unit size; of no events: zeros but for the ages. prior_N: probability of a click."""
    shown_NSD, clicked_NSD = evidence_NSC[..., :_DECAYS], evidence_NSC[..., _DECAYS : 2 * _DECAYS]
    # log((clicked + κ·p) / (shown + κ)) - log p, in fewer steps: most of a step's time is its call.
    ratio_NSD = (clicked_NSD / prior_N[:, None, None] + PRIOR_SHOWN) / (shown_NSD + PRIOR_SHOWN)
    acted_NS1 = evidence_NSC[..., 2 * _DECAYS : 2 * _DECAYS + 1]
    ages_NS2 = evidence_NSC[..., COUNTS:] / float(NEVER)
    return torch.cat([ratio_NSD.log(), shown_NSD.log1p() / 2, acted_NS1.log1p(), ages_NS2], dim=2)


class Evidence(nn.Module):
    """What the log's counts add to a candidate's logits: linear, and through a hidden layer."""

    def __init__(self, *, slots: int, hidden: int, heads: int, prior: float) -> None:
        super().__init__()
        inputs = slots * INPUTS + 1
        self.bias = nn.Parameter(torch.tensor(log_odds(prior)))
        self.up = linear(inputs, hidden)
        self.up_bias = nn.Parameter(torch.zeros(hidden))
        self.hidden_Hh = nn.Parameter(torch.zeros(heads, hidden))
        self.linear_HI = nn.Parameter(torch.zeros(heads, inputs))

    def forward(self, evidence_NSC: Tensor, expected_N: Tensor) -> Tensor:
        """Logits [N, H]. expected_N: logit of a click by the crosses of users and items, without gradient."""
        prior_N = torch.sigmoid(expected_N + self.bias.detach()).clamp(*PRIOR_BOUNDS)
        counted_NJ = evidence_inputs(evidence_NSC, prior_N).flatten(1)
        inputs_NI = torch.cat([counted_NJ, expected_N.unsqueeze(1)], dim=1)
        hidden_Nh = F.relu(self.up(inputs_NI) + self.up_bias)
        logits_NH: Tensor = inputs_NI @ self.linear_HI.t() + hidden_Nh @ self.hidden_Hh.t()
        return logits_NH
