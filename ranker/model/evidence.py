"""Evidence from the log as the tiers read it: smoothed log-odds with their certainty, as a token and as a logit.

Of each configured slot's counts (ranker/inputs/evidence.py), by decay: the log-odds of a click among what was shown,
with a prior of a few impressions (a beta posterior's mean: He et al., 2014; Ling et al., 2017), and the logarithm of
how many were shown, which says how sure that is; then what is worth more than a click, and the two ages.
"""

# N candidates, S slots, C columns of counts, K inputs of a slot.

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.inputs.evidence import ACTED, CLICKED, COUNTS, DECAYS_S, NEVER, SHOWN
from ranker.model.init import AFTER_RELU, BESIDE_EMBEDDINGS, linear

PRIOR_SHOWN = 10.0
"""Impressions that the prior counts as."""
INPUTS = 2 * len(DECAYS_S) + 3


def evidence_inputs(evidence_NSC: Tensor, prior: float) -> Tensor:
    """[N, S, K], each about of unit size; of no events: zeros but for the ages. prior: probability of a click."""
    N, S, _ = evidence_NSC.shape
    counts_NSDk = evidence_NSC[..., :COUNTS].reshape(N, S, len(DECAYS_S), 3)
    shown_NSD, clicked_NSD = counts_NSDk[..., SHOWN], counts_NSDk[..., CLICKED]
    odds_NSD = torch.log((clicked_NSD + PRIOR_SHOWN * prior) / (shown_NSD + PRIOR_SHOWN)) - torch.log(
        torch.tensor(prior)
    )
    sure_NSD = torch.log1p(shown_NSD) / 2
    acted_NS1 = torch.log1p(counts_NSDk[..., 0, ACTED]).unsqueeze(2)
    ages_NS2 = evidence_NSC[..., COUNTS:] / float(NEVER)
    return torch.cat([odds_NSD, sure_NSD, acted_NS1, ages_NS2], dim=2)


class Evidence(nn.Module):
    """One token a candidate, and what goes straight to its logits: linear, and through a hidden layer."""

    def __init__(self, *, slots: int, hidden: int, width: int, heads: int, prior: float) -> None:
        super().__init__()
        self.prior = prior
        inputs = slots * INPUTS
        self.up = linear(inputs, hidden)
        self.up_bias = nn.Parameter(torch.zeros(hidden))
        self.token = linear(hidden, width, gain=BESIDE_EMBEDDINGS * AFTER_RELU)
        self.hidden_Hh = nn.Parameter(torch.zeros(heads, hidden))
        self.linear_HI = nn.Parameter(torch.zeros(heads, inputs))

    def forward(self, evidence_NSC: Tensor) -> tuple[Tensor, Tensor]:
        """Token [N, 1, D] and logits [N, H]."""
        inputs_NI = evidence_inputs(evidence_NSC, self.prior).flatten(1)
        hidden_Nh = F.relu(self.up(inputs_NI) + self.up_bias)
        token_ND: Tensor = self.token(hidden_Nh)
        logits_NH = inputs_NI @ self.linear_HI.t() + hidden_Nh @ self.hidden_Hh.t()
        return token_ND.unsqueeze(1), logits_NH
