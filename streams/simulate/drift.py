"""Random paths that can be read at any time, without a state. Knows numpy alone."""

import numpy as np
import numpy.typing as npt

from ranker.arrays import F64

Index = int | slice | npt.NDArray[np.int64] | tuple[int | npt.NDArray[np.int64], ...]

WAVES = 16


class Drift:
    """Independent stationary Gaussian-like paths with the correlation of an Ornstein-Uhlenbeck process.

    Each path is a sum of cosines with random phases (random Fourier features, Rahimi & Recht 2007). The spectrum of
    exp(-|lag| / tau) is Cauchy's; its quantiles are stratified, so that every single path shows that correlation, not
    only their ensemble. Mean 0, variance 1. A path is a pure function of seed and time: there is nothing to step,
    and the past can be asked as well as the future.
    """

    def __init__(self, shape: tuple[int, ...], *, tau_s: float, rng: np.random.Generator) -> None:
        """tau_s: seconds after which the correlation has fallen to 1/e."""
        if not tau_s > 0:
            raise ValueError(f"tau_s must be > 0 seconds, got {tau_s}")
        quantiles = (np.arange(WAVES) + rng.uniform(size=(*shape, WAVES))) / WAVES
        self._per_s: F64 = np.tan(np.pi / 2 * quantiles) / tau_s
        self._phase: F64 = rng.uniform(0, 2 * np.pi, size=(*shape, WAVES))

    def at(self, time_s: float | F64, index: Index = slice(None)) -> F64:
        """The paths under `index` (of the leading axes) at this time, in seconds; shape as indexing gives it.

        Times of that shape are each path's own.
        """
        waves = np.cos(self._per_s[index] * np.asarray(time_s)[..., None] + self._phase[index])
        value: F64 = waves.sum(axis=-1) * np.sqrt(2 / WAVES)
        return value
