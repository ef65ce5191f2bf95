"""A fair start for new ads: their probability of a click is drawn from what it may well be (Thompson, 1933).

    logit(drawn) = logit(p) + z · σ        σ² = 1 / ((κ + shown · p) · (1 - p))

p is the model's prediction, z a standard normal number, and σ the standard deviation of the log-odds of a probability
that is known from `shown` impressions besides what was known before any, which counts as κ clicks: the normal
approximation of the posterior (Chapelle and Li, 2011, "An Empirical Evaluation of Thompson Sampling"). An ad that was
never shown goes up or down by about 1 / √κ in log-odds; one of many clicks stays where it is.
"""

# N candidates.

import numpy as np

from ranker.arrays import F32
from ranker.inputs.hashing import hash64

_MOST = 16.0
"""Log-odds of a draw, at most: float32 knows no probability below 1 that is nearer to it than 10⁻⁷."""


def normal_draws(response_id: str, count: int) -> F32:
    """[count] standard normal numbers, the same for the same response: a draw can be made again from the log."""
    return np.random.default_rng(hash64(response_id)).standard_normal(count, np.float32)


def drawn_probabilities(p_N: F32, shown_N: F32, normal_N: F32, prior_clicks: float) -> F32:
    """float32 [N] in (0, 1).

    Args:
        p_N: predicted probabilities of a click.
        shown_N: impressions of each candidate that are counted.
        normal_N: z.
        prior_clicks: κ, > 0.
    """
    p = np.clip(p_N.astype(np.float64), 1e-6, 1 - 1e-6)
    deviation = 1 / np.sqrt((prior_clicks + shown_N * p) * (1 - p))
    logit = np.clip(np.log(p / (1 - p)) + normal_N * deviation, -_MOST, _MOST)
    drawn: F32 = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return drawn
