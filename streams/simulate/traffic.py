"""Who asks for ads, when, and among which: the requests of a simulated world. Knows nothing of Kafka."""

from dataclasses import dataclass

import numpy as np

from ranker.arrays import F64, I64
from streams.simulate.config import DEVICES, SURFACES
from streams.simulate.world import World


@dataclass(frozen=True, slots=True)
class Visit:
    """One page of one session, before anything is ranked."""

    number: int
    user: int
    surface: str
    device: str
    items: I64
    """Candidates, in no order that means anything."""
    bids: F64
    search: str | None
    """What the user searched for just before; None where nothing."""


@dataclass(slots=True)
class _Session:
    user: int
    surface: str
    device: str


class Traffic:
    """Visits of a world, one after another: users come in sessions, several of which run at the same time.

    The n-th visit is the same for the same world and seed, whatever was answered before, except that only campaigns
    that run at the time it is asked for, and items that are alive then, can be candidates, and that a search shows the
    interest of that time.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._number = 0
        rng = np.random.default_rng([world.seed, 3])
        self._sessions = [self._session(rng) for _ in range(world.config.sessions)]

    def next(self, now_ms: int) -> Visit:
        world, c = self.world, self.world.config
        rng = np.random.default_rng([world.seed, 4, self._number])
        slot = int(rng.integers(len(self._sessions)))
        fresh = self._session(rng)
        if rng.random() < 1 / c.session_requests:
            self._sessions[slot] = fresh
        session = self._sessions[slot]
        searched, topic_draw = rng.random(2)
        search = self._search(session.user, now_ms, topic_draw) if searched < c.search_share else None
        number_wanted = c.candidates_median * np.exp(c.candidates_spread * rng.standard_normal())
        order = rng.permutation(c.items)
        order = order[world.alive(now_ms)[order]]
        items = order[world.running(now_ms)[world.item_campaign[order]]]
        if not len(items):  # a world of few campaigns can have all of them pause
            items = order
        items = items[: int(np.clip(number_wanted, c.candidates_min, c.candidates_max))]
        visit = Visit(
            number=self._number,
            user=session.user,
            surface="search" if search else session.surface,
            device=session.device,
            items=items,
            bids=world.bids(now_ms)[world.item_campaign[items]],
            search=search,
        )
        self._number += 1
        return visit

    def _session(self, rng: np.random.Generator) -> _Session:
        user = int(np.searchsorted(np.cumsum(self.world.user_activity), rng.random(), side="right"))
        surface, device = rng.integers(len(SURFACES)), rng.integers(len(DEVICES))
        return _Session(min(user, self.world.config.users - 1), SURFACES[surface], DEVICES[device])

    def _search(self, user: int, now_ms: int, draw: float) -> str:
        """A topic, by the user's interest of the moment: P(topic) ∝ exp(2 · interest)."""
        weight = np.exp(2 * self.world.interest(user, now_ms))
        topic = int(np.searchsorted(np.cumsum(weight / weight.sum()), draw, side="right"))
        return f"query:{self.world.topics[min(topic, len(weight) - 1)]}"
