"""From tokens to logits: the click and conversion heads, position bias, and calibration."""

# B requests, N candidates, U and V tokens of user and candidate, D token width, P positions, H the two heads
# (0 click, 1 conversion).

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.config import TierConfig
from ranker.model.direct import SMALL
from ranker.model.init import linear, normal

CLICK, CONVERSION = 0, 1


class Heads(nn.Module):
    """Each head a hidden layer over the candidate's and the user's tokens, then a logit; the only biases of a tier.

    What the tokens say before any layer is added (DirectLogits). The user's part of the hidden layer is computed once a
    request and added by index. float32 throughout: in bfloat16 many candidates of a request would get the same score.
    """

    def __init__(
        self,
        tier: TierConfig,
        *,
        user_tokens: int,
        item_tokens: int,
        width: int,
        priors: tuple[float, float],
        learns_late: bool,
    ) -> None:
        """user_tokens and item_tokens: those that come out of the stacks."""
        super().__init__()
        hidden, fan_in = tier.hidden, (user_tokens + item_tokens) * width
        self.user = linear(user_tokens * width, 2 * hidden)
        self.user.weight = normal(2 * hidden, user_tokens * width, fan_in=fan_in)
        self.item = linear(item_tokens * width, 2 * hidden)
        self.item.weight = normal(2 * hidden, item_tokens * width, fan_in=fan_in)
        self.hidden_bias = nn.Parameter(torch.zeros(2 * hidden))
        self.out_Hh = normal(2, hidden, fan_in=hidden, gain=SMALL)
        self.out_bias = nn.Parameter(torch.logit(torch.tensor(priors)))
        self.distilled_Hh = normal(2, hidden, fan_in=hidden, gain=SMALL) if tier.distilled else None
        self.distilled_bias = nn.Parameter(self.out_bias.detach().clone()) if tier.distilled else None
        self.late_1h = normal(1, hidden, fan_in=hidden, gain=SMALL) if learns_late else None
        self.late_bias = nn.Parameter(torch.zeros(())) if learns_late else None
        self.dropout = tier.dropout

    def forward(
        self, user_BUD: Tensor, item_NVD: Tensor, direct_NH: Tensor, request_of_N: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Logits [N, H], float32, and in training those of the auxiliary heads that the tier has: of what the heaviest
        tier says [N, H], and of a conversion to come late [N]."""
        user_Bh = self.user(user_BUD.float().flatten(1)) + self.hidden_bias
        if user_Bh.shape[0] != 1:
            user_Bh = user_Bh.index_select(0, request_of_N)
        hidden_Nh = F.relu(self.item(item_NVD.float().flatten(1)) + user_Bh)
        if self.dropout:
            hidden_Nh = F.dropout(hidden_Nh, self.dropout, self.training)
        hidden_NHh = hidden_Nh.view(-1, 2, self.out_Hh.shape[1])
        logits_NH: Tensor = (hidden_NHh * self.out_Hh).sum(2) + direct_NH + self.out_bias
        distilled_NH = late_N = None
        if self.training and self.distilled_Hh is not None and self.distilled_bias is not None:
            # The direct terms are left to the labels: the teacher is to shape the hidden layer and all below.
            distilled_NH = (hidden_NHh * self.distilled_Hh).sum(2) + direct_NH.detach() + self.distilled_bias
        if self.training and self.late_1h is not None and self.late_bias is not None:
            late_N = (hidden_NHh[:, CONVERSION] * self.late_1h).sum(1) + self.late_bias
        return logits_NH, distilled_NH, late_N

    @torch.no_grad()
    def keep(self, units_K: Tensor) -> None:
        """Keep these hidden units of each head, int64 [2, K], and no others."""
        both = torch.cat([units_K[0], units_K[1] + self.out_Hh.shape[1]])
        for side in (self.user, self.item):
            side.weight = nn.Parameter(side.weight[both].clone())
            side.out_features = len(both)
        self.hidden_bias = nn.Parameter(self.hidden_bias[both].clone())
        self.out_Hh = nn.Parameter(self.out_Hh.gather(1, units_K))
        if self.distilled_Hh is not None:
            self.distilled_Hh = nn.Parameter(self.distilled_Hh.gather(1, units_K))
        if self.late_1h is not None:
            self.late_1h = nn.Parameter(self.late_1h[:, units_K[CONVERSION]].clone())


class PositionBias(nn.Module):
    """What the position an ad was shown at adds to its click logit.

    Training knows the position; serving decides it, so there every candidate gets the mean over the positions that
    impressions had: the order is untouched and the probabilities are right on average.
    """

    share_P: Tensor

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.bias_P = nn.Parameter(torch.zeros(positions))
        self.register_buffer("share_P", torch.full((positions,), 1 / positions))

    def at(self, position_N: Tensor) -> Tensor:
        """Bias [N] of each position, int64; those past the last configured one count as the last."""
        return F.embedding(position_N.clamp(0, self.bias_P.shape[0] - 1), self.bias_P.unsqueeze(1)).squeeze(1)

    def mean(self) -> Tensor:
        """The bias of an average impression, a scalar."""
        return torch.dot(self.share_P, self.bias_P)

    @torch.no_grad()
    def worth(self, position_N: Tensor) -> Tensor:
        """Odds [N] of a click at each position, as a multiple of those at an average one; 1/8 to 8."""
        return torch.exp(self.at(position_N) - self.mean()).clamp(0.125, 8.0)

    @torch.no_grad()
    def observe(self, position_N: Tensor, *, rate: float) -> None:
        """Move the shares towards those of these impressions; each one weighs `rate`."""
        N = position_N.shape[0]
        if N == 0:
            return
        P = self.bias_P.shape[0]
        share_P = torch.bincount(position_N.clamp(0, P - 1), minlength=P) / N
        self.share_P.lerp_(share_P, 1 - (1 - rate) ** N)


def calibration_identity() -> Tensor:
    """[H, 2] float32: scale 1 and shift 0 for each head."""
    return torch.tensor([[1.0, 0.0], [1.0, 0.0]])


_TRUST, _TRUST_LABELS = 0.2, 10.0
"""Share of what clicks are predicted to differ by that is believed to begin with, and how much that counts as: the
information of so many labels, Σ p(1 - p)d² where predictions differ from the base rate by a logit d."""
_TRUST_MOST = 1_000.0
"""Information that is remembered: what is learned of it later counts a thousandth, so that trust goes on following."""
_TRUST_LEAST = 0.05
_SUREST = 30.0
"""Logits further than this from the base rate's say no more, and their squares would leave float32."""


def trust_start() -> Tensor:
    """[2] float32: how far clicks' logits are trusted to begin with, and the information that rests on."""
    return torch.tensor([_TRUST, _TRUST_LABELS])


@torch.no_grad()
def trust_step(trust_2: Tensor, logit_N: Tensor, label_N: Tensor, weight_N: Tensor, base: float) -> Tensor:
    """Trust after these labels: the slope of a logistic regression of clicks on how far logits lie from the mean's.

    One Newton step, from a normal prior (as of a Bayesian logistic regression; Bishop, 2006, 4.5). Where there is
    nothing to learn, what a model learns is noise, and the slope says so after a few dozen clicks; where there is, it
    says that as soon.

    Args:
        logit_N: of a model that had not learned from these labels; finite.
        label_N: NaN where there is none. weight_N: how often each counts.
        base: log-odds of the mean label so far.
    """
    slope, information = trust_2.unbind()
    known_N = ~label_N.isnan()
    apart_N = (logit_N - base).clamp(-_SUREST, _SUREST)
    p_N = torch.sigmoid(base + slope * apart_N)
    said_N = torch.where(known_N, (label_N - p_N) * apart_N * weight_N, 0.0)
    information = information + torch.where(known_N, p_N * (1 - p_N) * apart_N.square() * weight_N, 0.0).sum()
    slope = (slope + said_N.sum() / information).clamp(_TRUST_LEAST, 1.0)
    return torch.stack([slope, information.clamp(max=_TRUST_MOST)])


def trusted(calibration_2: Tensor, trust_2: Tensor, base: float) -> Tensor:
    """[2]: a click's scale and shift of a calibration that is trusted so far: base + slope · (calibrated - base)."""
    scale, shift = calibration_2.unbind()
    return torch.stack([trust_2[0] * scale, base + trust_2[0] * (shift - base)])


def calibrate(calibration_H2: Tensor, logits_NH: Tensor) -> Tensor:
    """scale · logit + shift, a head its own: Platt scaling (Platt, 1999). [N, H]."""
    scale_H, shift_H = calibration_H2.unbind(1)
    return torch.addcmul(shift_H, logits_NH, scale_H)


@torch.no_grad()
def calibration_step(
    calibration_H2: Tensor,
    logits_NH: Tensor,
    labels_NH: Tensor,
    *,
    weights_NH: Tensor | None = None,
    rate: float = 2e-3,
) -> Tensor:
    """The calibration after one step of stochastic gradient descent on the log loss of these predictions.

    Args:
        calibration_H2: [H, 2] scale and shift.
        logits_NH: [N, H] uncalibrated, of a model that had not yet learned from the labels; finite.
        labels_NH: [N, H] 0 or 1; NaN where a head has no label, which is then left out.
        weights_NH: [N, H], how often each label counts; None: once.
        rate: step a labelled example. Shift forgets in about 1 / (rate · p(1 - p)) examples and wanders by about
            sqrt(rate / 2) around its best.

    Returns a new [H, 2]; the input is untouched. Scale stays in [0.25, 4], so that a bad stretch can neither reverse
    the order nor freeze it.
    """
    known_NH = ~labels_NH.isnan()
    error_NH = torch.where(known_NH, torch.sigmoid(calibrate(calibration_H2, logits_NH)) - labels_NH, 0.0)
    if weights_NH is not None:
        error_NH = error_NH * weights_NH
    gradient_H2 = torch.stack([(error_NH * logits_NH).sum(0), error_NH.sum(0)], dim=1)
    # A large batch must not overshoot: its step is bounded, in the units of a logit.
    after_H2 = calibration_H2 - (rate * gradient_H2).clamp(-0.1, 0.1)
    after_H2[:, 0].clamp_(0.25, 4.0)
    return after_H2
