"""When requests are due: fixed before the first is sent, so that nothing that happens later can move them."""

from typing import Literal

import numpy as np
import numpy.typing as npt

Pacing = Literal["poisson", "uniform"]
MAX_RATE = 100_000.0
MAX_REQUESTS = 10_000_000


def due_times(rate: float, seconds: float, *, pacing: Pacing = "poisson", seed: int = 0) -> npt.NDArray[np.float64]:
    """[round(rate · seconds)] seconds after the start, in order, in [0, seconds).

    `poisson`: independent callers. The arrivals of a Poisson process, given how many fall into a stretch of time, are
    so many independent uniform draws from it (Ross, Stochastic Processes, 2.3); so the rate is exactly the asked one.
    `uniform`: evenly apart.

    Raises ValueError on a rate or length that makes no sense, or no request.
    """
    if not 0 < rate <= MAX_RATE:
        raise ValueError(f"rate must be in (0, {MAX_RATE:g}] requests a second, got {rate:g}")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be > 0, got {seconds:g}")
    count = round(rate * seconds)
    if not 1 <= count <= MAX_REQUESTS:
        raise ValueError(
            f"rate x seconds must be 1 to {MAX_REQUESTS} requests, got {rate:g} x {seconds:g}; change one of them"
        )
    if pacing == "uniform":
        return np.arange(count, dtype=np.float64) * (seconds / count)
    return np.sort(np.random.default_rng([seed, count]).uniform(0, seconds, count))
