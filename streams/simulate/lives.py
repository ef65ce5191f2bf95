"""When each item of a catalogue is offered: new ones keep arriving, and old ones leave."""

# n pairs of an item and a moment.

import numpy as np

from ranker.arrays import F64, I64
from streams.simulate.config import WorldConfig


class Lives:
    """Fixed by configuration and seed. Arrivals follow one another in an order of their own, evenly but for a share of
    the time between two, so that about as many items are alive at any time; each lives half to one and a half times the
    mean. Once all had their turn, after life_s / alive_share seconds, the first comes again."""

    def __init__(self, config: WorldConfig, seed: int) -> None:
        c, rng = config, np.random.default_rng([seed, 10])
        self._turn_s = c.life_s / c.alive_share
        self._arrival_s: F64 = (rng.permutation(c.items) + rng.random(c.items)) / c.items * self._turn_s
        self.life_s: F64 = np.minimum(c.life_s * rng.uniform(0.5, 1.5, c.items), self._turn_s)
        """[items]: how long each is offered."""

    def age_s(self, items: I64, at_s: float | F64) -> F64:
        """[n]: seconds since each of these items arrived last."""
        value: F64 = (at_s - self._arrival_s[items]) % self._turn_s
        return value
