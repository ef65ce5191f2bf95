"""What each conversion example weighs, so that the expected loss is that of the true labels. Pure functions.

p is the model's own probability of a conversion, `late` that of a conversion to come after a provisional example said
otherwise; weights are constants of the step that uses them.
"""

# N conversion examples.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.delayed.policies import NO_EMISSION, POLICIES, Emission, PolicyName

Importance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From p = P(converts | x) and late = P(a provisional example goes before | converts, x), both [N], to the weights [N]
that a positive and a negative example of x have."""


def unweighted(p_N: Tensor, late_N: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(p_N), torch.ones_like(p_N)


def fake_negative_weights(p_N: Tensor, late_N: Tensor) -> tuple[Tensor, Tensor]:
    """1 + p and (1 + p)(1 - p): Ktena et al., 2019, "Addressing Delayed Feedback for Continuous Training with Neural
    Networks in CTR Prediction" (RecSys).

    Every click is a negative example, and a converted one a positive example besides: of 1 + p examples of x, p are
    positive. The expected loss is that of the true labels times 1 + p(x): each x has its own optimum, and those that
    convert weigh more.
    """
    return 1 + p_N, (1 + p_N) * (1 - p_N)


def elapsed_time_weights(p_N: Tensor, late_N: Tensor) -> tuple[Tensor, Tensor]:
    """1 + p_dp and (1 + p_dp) · p_rn: Yang et al., 2021, "Capturing Delayed Feedback in Conversion Rate Prediction via
    Elapsed-Time Sampling" (AAAI).

    p_dp = p · late is the probability of converting after the elapsed time, p_rn = (1 - p) / (1 - p + p_dp) that of
    what has not converted by then to be a real negative. The paper learns both by models of their own from complete
    periods; here both follow from `late`, which is learned from conversions as they come (see late_loss) and so is not
    a window old. The expected loss is that of the true labels times 1 + p_dp(x).
    """
    delayed_N = p_N * late_N
    real_N = (1 - p_N) / (1 - p_N + delayed_N)
    return 1 + delayed_N, (1 + delayed_N) * real_N


def real_negative_weights(p_N: Tensor, late_N: Tensor) -> tuple[Tensor, Tensor]:
    """p / (p - p_dp / 2) and (1 - p) / (1 - p + p_dp / 2): Gu et al., 2021, "Real Negatives Matter: Continuous Training
    with Real Negatives for Delayed Feedback Modeling" (KDD).

    Each click counts twice: as it looked after the elapsed time, and as it turned out. So no x weighs more than
    another, and the expected loss is twice that of the true labels. p_dp = p · late as above, and p cancels in the
    first weight.
    """
    half_N = late_N / 2
    return 1 / (1 - half_N), (1 - p_N) / (1 - p_N + p_N * half_N)


IMPORTANCE: Final[Mapping[PolicyName, Importance]] = MappingProxyType(
    {
        "wait": unweighted,
        "naive": unweighted,
        "fake_negative": fake_negative_weights,
        "es_dfm": elapsed_time_weights,
        "defer": real_negative_weights,
    }
)


@dataclass(frozen=True, slots=True)
class Targets:
    """float32 [N] each. A weight of 0: the policy does not learn from this example. nan and 0 where there is none."""

    label_N: Tensor
    weight_N: Tensor


@torch.no_grad()
def targets(policy: PolicyName, emission_N: Tensor, p_N: Tensor, late_N: Tensor) -> Targets:
    """What is to be learned from these examples.

    Args:
        emission_N: int64, of Emission, or NO_EMISSION.
        p_N: float32, the model's own probability of a conversion, in (0, 1).
        late_N: float32, that of a conversion to be a corrected one, in (0, 1); unused by policies that do not learn it.
    """
    positive_N = is_positive(emission_N)
    positive_weight_N, negative_weight_N = IMPORTANCE[policy](p_N, late_N)
    times_N = torch.tensor([*POLICIES[policy].times, 0], dtype=p_N.dtype)[emission_N]  # the last is NO_EMISSION's
    weight_N = times_N * torch.where(positive_N, positive_weight_N, negative_weight_N)
    label_N = positive_N.to(p_N.dtype).masked_fill(emission_N == NO_EMISSION, torch.nan)
    return Targets(label_N, weight_N)


def is_positive(emission_N: Tensor) -> Tensor:
    """bool [N]"""
    return (emission_N == Emission.CONVERTED) | (emission_N == Emission.CORRECTED)


def late_loss(late_logit_N: Tensor, emission_N: Tensor) -> Tensor:
    """Sum over the positive examples of the log loss of "it came late": what learns `late`.

    Each conversion comes exactly once, early or late, so what arrives in any hour of a steady stream has the right
    share of late ones, and nothing has to wait for a window.
    """
    positive_N = is_positive(emission_N)
    late_N = (emission_N[positive_N] == Emission.CORRECTED).to(late_logit_N.dtype)
    return F.binary_cross_entropy_with_logits(late_logit_N[positive_N], late_N, reduction="sum")
