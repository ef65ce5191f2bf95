"""How good predictions are: normalized entropy, and what one run has over another on the same impressions."""

# n graded impressions.

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.arrays import F32, I64
from ranker.grades import log_loss, log_losses


@dataclass(frozen=True)
class Difference:
    """Difference of normalized entropies, this run's minus the reference's: below 0 is better."""

    mean: float
    half_width: float
    """Half the width of the 95 % interval: impressions of one request count as one draw."""

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.half_width:.4f}"


def entropy(click_n: F32, p_n: npt.NDArray[np.floating]) -> float:
    """Log loss over that of the mean click rate (He et al., 2014): 1 is a constant's."""
    return log_loss(click_n, p_n) / _base(click_n)


def difference(click_n: F32, p_n: F32, reference_n: F32, request_n: I64) -> Difference:
    """Compares two runs, paired by request; request_n: ascending."""
    gap = log_losses(click_n, p_n) - log_losses(click_n, reference_n)
    by_request = np.bincount(request_n - request_n[0], weights=gap)
    by_request = by_request[np.bincount(request_n - request_n[0]) > 0]
    base = _base(click_n)
    error = float(by_request.std(ddof=1)) * len(by_request) ** 0.5
    return Difference(float(gap.sum()) / base, 1.96 * error / base)


def _base(click_n: F32) -> float:
    return log_loss(click_n, np.full(len(click_n), click_n.mean()))
