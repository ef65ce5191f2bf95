"""What a rich world adds to the log-odds of a click, so that long logs, wide and deep models are worth their cost."""

# n pairs of a user and an item, each at a moment; G segments, T topics, H themes, Q quarters of the day.

import numpy as np

from ranker.arrays import F64, I64
from streams.simulate.config import DEVICES, SURFACES, WorldConfig

_QUARTERS = 4


class Riches:
    """Fixed by configuration and seed; each part has mean 0 and, over users and items, the configured deviation."""

    def __init__(self, config: WorldConfig, seed: int) -> None:
        c, rng = config, np.random.default_rng([seed, 5])
        # A passion is for good and for few themes. Normed to mean 0 and variance 1: rare means strong.
        has_UH = rng.random((c.users, c.themes)) < c.theme_share
        spread = max((c.theme_share * (1 - c.theme_share)) ** 0.5, 1e-9)
        self.passion_UH: F64 = c.theme_interest * (has_UH - c.theme_share) / spread
        self._by_device_GTD: F64 = c.cross * rng.standard_normal((c.topics, c.topics, len(DEVICES)))
        self._by_hour_TSQ: F64 = c.cross * rng.standard_normal((c.topics, len(SURFACES), _QUARTERS))
        self._price_GT: F64 = c.price_taste * rng.standard_normal((c.topics, c.topics))
        self._price_U: F64 = c.price_taste * rng.standard_normal(c.users)

    def logit(
        self,
        user: int | I64,
        segment: int | I64,
        topic: I64,
        theme: I64,
        surface: int | I64,
        device: int | I64,
        hour: float | F64,
        dearness: F64,
    ) -> F64:
        """[n]; hour in [0, 24), dearness of the item's price in standard deviations of its logarithm."""
        quarter = np.asarray(hour * _QUARTERS / 24).astype(np.int64)
        value: F64 = (
            self.passion_UH[user, theme]
            + self._by_device_GTD[segment, topic, device]
            + self._by_hour_TSQ[topic, surface, quarter]
            + (self._price_GT[segment, topic] + self._price_U[user]) * dearness
        )
        return value
