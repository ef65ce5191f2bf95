"""When a model is right about items that arrived while it served."""

# B contexts, J newcomers, n of them that are asked about.

from dataclasses import dataclass

import numpy as np

from benchmarks.lab.closed import Asked, House
from ranker.arrays import F64, I64
from ranker.inputs.requests import ScoringRequest
from streams.simulate.config import DEVICES, SURFACES
from streams.simulate.world import sigmoid

NEAR = 0.2
"""Share of the truth that a right prediction is off by at most."""
STAYS = 3
"""Probes in a row that are near before an item counts as right, from the first of them on."""


@dataclass(frozen=True)
class Learned:
    """What became of each newcomer [J]."""

    minutes_J: F64
    """From its arrival until it was right; inf: never."""
    impressions_J: F64
    """As many as were shown by then; inf: never right."""
    shown_J: I64
    """Impressions until the end."""


class Newcomers:
    """Items that arrive between two moments, and how near to the truth their mean prediction is over fixed contexts.

    The truth is that at an average place of a page, as predictions are.
    """

    def __init__(self, house: House, contexts: list[Asked], first_ms: int, last_ms: int) -> None:
        world = house.world
        assert world.lives is not None, "a world whose items come and go"
        self._world, self._house = world, house
        self._contexts = [one.request for one in contexts]
        numbers = {name: number for number, name in enumerate(world.user_ids)}
        self._user_B = np.array([numbers[r.user] for r in self._contexts])
        self._surface_B = np.array([SURFACES.index(r.surface) for r in self._contexts])
        self._device_B = np.array([DEVICES.index(str(r.context["device"])) for r in self._contexts])
        age_ms = 1000 * world.lives.age_s(np.arange(world.config.items), (last_ms - world.start_ms) / 1000)
        self.item_J = np.flatnonzero(age_ms < last_ms - first_ms)
        self._arrived_ms_J: F64 = last_ms - age_ms[self.item_J]
        self._near_J = np.zeros(len(self.item_J), np.int64)
        self._minutes_J, self._impressions_J = (np.full(len(self.item_J), np.inf) for _ in range(2))

    def probe(self, now_ms: int) -> None:
        """Asks about all that arrived, are alive and not yet right."""
        here_J = (self._arrived_ms_J <= now_ms) & (self._near_J < STAYS)
        asked = np.flatnonzero(here_J & self._world.alive(now_ms)[self.item_J])
        if not len(asked):
            return
        predicted_n, truth_n = self._means(self.item_J[asked], now_ms)
        near_n = np.abs(predicted_n - truth_n) <= NEAR * truth_n
        first = asked[near_n & (self._near_J[asked] == 0)]
        self._minutes_J[first] = (now_ms - self._arrived_ms_J[first]) / 60_000
        self._impressions_J[first] = self._house.shown_I[self.item_J[first]]
        self._near_J[asked] = np.where(near_n, self._near_J[asked] + 1, 0)

    def learned(self) -> Learned:
        right_J = self._near_J >= STAYS
        return Learned(
            np.where(right_J, self._minutes_J, np.inf),
            np.where(right_J, self._impressions_J, np.inf),
            self._house.shown_I[self.item_J],
        )

    def _means(self, items: I64, now_ms: int) -> tuple[F64, F64]:
        """Means over the contexts of predictions and of the truth [n]."""
        world, B, n = self._world, len(self._contexts), len(items)
        names, features = [world.item_ids[i] for i in items], [world.item_features(int(i)) for i in items]
        requests = [
            ScoringRequest(
                user=r.user,
                event_ms=now_ms,
                items=names,
                item_features=features,
                features=r.features,
                context=r.context,
                surface=r.surface,
            )
            for r in self._contexts
        ]
        predicted_BN = self._house.predict(requests).reshape(B, n)
        logit_BN = world.click_logit(
            np.repeat(self._user_B, n),
            np.tile(items, B),
            now_ms,
            surface=np.repeat(self._surface_B, n),
            device=np.repeat(self._device_B, n),
        ).reshape(B, n)
        looked = world.examination(np.arange(world.config.shown)).mean()
        return predicted_BN.mean(axis=0, dtype=np.float64), looked * sigmoid(logit_BN).mean(axis=0)
