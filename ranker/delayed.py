"""Learning from conversions that take days: which examples are made of a clicked impression, and what each one weighs.

A click's label is final only when its attribution window closes. A policy may say "negative" earlier, take it back when
the conversion comes, and weigh what it says so that the expected loss is that of the true labels. The stream's side
(feature_store, JoinConfig.provisional) makes up to two examples of a clicked impression:

    PROVISIONAL  negative before the window closed: at the click, or once `elapsed_ms` passed without a conversion
    CONVERTED    positive, and nothing was said before
    CORRECTED    positive, after a provisional example said otherwise
    CLOSED       negative: the window closed

The last three are the final label, which comes under every policy: it is what predictions are graded by. What of all
this is learned, and how much it weighs, is the learner's side, and all of this file.
"""

# N conversion examples.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PolicyName = Literal["wait", "naive", "fake_negative", "es_dfm", "defer"]
Provisional = Literal["none", "click", "elapsed"]
Importance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From p = P(converts | x) and late = P(a provisional example goes before | converts, x), both [N], to the weights [N]
that a positive and a negative example of x have."""


class Emission(IntEnum):
    PROVISIONAL = 0
    CONVERTED = 1
    CORRECTED = 2
    CLOSED = 3


NO_EMISSION: Final = -1
"""Stands where there is no conversion example."""


def _unweighted(p_N: Tensor, late_N: Tensor) -> tuple[Tensor, Tensor]:
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


@dataclass(frozen=True, slots=True)
class Policy:
    provisional: Provisional
    """What the stream must say early."""
    times: tuple[int, int, int, int]
    """How often each Emission counts, in its order. DEFER's second copy of an early conversion is taken at once."""
    importance: Importance = _unweighted
    learns_late: bool = False
    """Needs the head that learns `late`."""


POLICIES: Final[Mapping[PolicyName, Policy]] = MappingProxyType(
    {
        # An example once its label is certain: its negatives are a window old.
        "wait": Policy("none", times=(0, 1, 1, 1)),
        # "Vanilla": p / (1 + p) is learned in place of p.
        "naive": Policy("click", times=(1, 1, 1, 0)),
        "fake_negative": Policy("click", times=(1, 1, 1, 0), importance=fake_negative_weights),
        "es_dfm": Policy("elapsed", times=(1, 1, 1, 0), importance=elapsed_time_weights, learns_late=True),
        "defer": Policy("elapsed", times=(1, 2, 1, 1), importance=real_negative_weights, learns_late=True),
    }
)


@dataclass(frozen=True, slots=True)
class Targets:
    """float32 [N] each; a weight of 0 is an example that the policy does not learn from."""

    label_N: Tensor
    weight_N: Tensor


def targets(policy: Policy, emission_N: Tensor, p_N: Tensor, late_N: Tensor) -> Targets:
    """What is to be learned from these examples. No gradient flows through weights.

    Args:
        emission_N: int64, of Emission.
        p_N: float32, the model's own probability of a conversion, in (0, 1).
        late_N: float32, that of a conversion to be a corrected one, in (0, 1); unused by policies that do not learn it.
    """
    p_N, late_N = p_N.detach(), late_N.detach()
    positive_N = is_positive(emission_N)
    positive_weight_N, negative_weight_N = policy.importance(p_N, late_N)
    times_N = torch.tensor(policy.times, dtype=p_N.dtype)[emission_N]
    weight_N = times_N * torch.where(positive_N, positive_weight_N, negative_weight_N)
    return Targets(positive_N.to(p_N.dtype), weight_N)


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
