"""The time that reward windows close by: the join's clock, once all that the join had told by then is read."""

import logging
import time
from collections import Counter
from collections.abc import Sequence

import faust
from redis.asyncio import Redis

from feature_store.shared_clock import CLOCKS, closed_ms
from streams.kafka.ends import EndsQuestion
from streams.runtime import metrics as metric
from streams.wire.record import Record, next_offsets

log = logging.getLogger(__name__)

HELD_S = 5.0
"""So long the join's clock may stand still before that is said."""
LOOKS = 20
"""What was fetched is handled after fewer looks than that, by the size of all queues on its way."""

Place = tuple[str, int]


class JoinClock:
    """All outcomes come from the join, which is held while Redis, ingest or some partitions are away.

    A clock of our own would run on meanwhile, and close windows at zero whose outcomes are still to come. So, in this
    order: ask how far the join has closed its windows, which it says once all labels and outcomes before that time are
    on the broker; ask the broker where the topics end; and once all before those ends is handled, windows may close up
    to what the join said. Where the join says nothing, they wait.
    """

    def __init__(self, app: faust.App, redis: Redis, question: EndsQuestion) -> None:
        self.now_ms = 0
        """In event time; it never goes back. 0: nothing may close yet."""
        self._app = app
        self._redis = redis
        self._question = question
        self._joined_ms = 0
        """What the join last said."""
        self._ends: dict[Place, int] | None = None
        """Where the topics ended after it had said that."""
        self._next: dict[Place, int] = {}
        """By partition, the next offset to handle, as far as that is known."""
        self._asked: dict[Place, int] = {}
        """What `_next` was when the broker was asked."""
        self._looks: Counter[Place] = Counter()
        """How often partitions were found fetched to their ends, and not handled to them."""
        self._moved = time.monotonic()
        self._newest_ms = 0
        self._held = False

    @property
    def waits(self) -> bool:
        """Whether it stands until what the topics held is read."""
        return self._ends is not None

    def handled(self, records: Sequence[Record], newest_ms: int) -> None:
        """newest_ms: of the decisions among them; 0 for none."""
        offsets = next_offsets(records)
        self._next |= offsets
        self._newest_ms = max(self._newest_ms, newest_ms)
        for place in offsets:
            del self._looks[place]

    async def look(self) -> None:
        """To be called between batches. Raises redis' errors."""
        assigned = {(tp.topic, tp.partition) for tp in self._app.consumer.assignment()}
        self._next = {place: offset for place, offset in self._next.items() if place in assigned}
        answer = self._question.answer()
        if answer is not None:
            self._ends = answer.offsets
        if self._ends is not None and self._ends.keys() != assigned:
            self._ends = None  # of partitions that came since nothing is known
        if self._ends is not None and any(end < self._asked.get(place, 0) for place, end in self._ends.items()):
            self._ends = None  # a topic was made anew, and nothing of that is read
        if self._ends is not None:
            if not all([await self._is_read(place, end) for place, end in self._ends.items()]):
                return
            self._ends, self.now_ms = None, max(self.now_ms, self._joined_ms)
        if not self._question.open:
            await self._ask(assigned)

    async def _ask(self, assigned: set[Place]) -> None:
        joined_ms = closed_ms(await self._redis.hgetall(CLOCKS))
        if joined_ms > self._joined_ms:
            self._joined_ms, self._moved = joined_ms, time.monotonic()
        self._say_if_held()
        if self._joined_ms > self.now_ms:
            self._asked = dict(self._next)
            self._question.ask(assigned)

    def _say_if_held(self) -> None:
        stood_s = time.monotonic() - self._moved
        held = stood_s > HELD_S and self._newest_ms > self._joined_ms
        metric.REWARDS_HELD_SECONDS.set(stood_s if held else 0.0)
        if held and not self._held:
            log.warning(
                "the join's clock has stood still for %.0f s: no reward window closes until it goes on, as outcomes "
                "come from ingest; see that ingest and Redis are well",
                stood_s,
            )
        elif self._held and not held:
            log.warning("the join's clock goes on: reward windows close again")
        self._held = held

    async def _is_read(self, place: Place, end: int) -> bool:
        if self._next.get(place, 0) >= end:
            return True
        tp = faust.types.TP(*place)
        if self._app.consumer.highwater(tp) is None:  # nothing was fetched yet
            return False
        if (await self._app.consumer.position(tp) or 0) >= end:
            self._looks[place] += 1
        if self._looks[place] < LOOKS:
            return False
        # Fetched, and nothing of it came: there is nothing but what was handled before our start, or marks of
        # transactions.
        self._next[place] = end
        return True
