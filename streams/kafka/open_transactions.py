"""Senders' transactions that stand open, and hold back all records after them in their partitions.

Who reads committed records only cannot tell such a partition from a quiet one: nothing comes, and nothing is wrong.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka.admin import AdminClient

from streams.kafka.ends import EndsQuestion
from streams.runtime import metrics as metric
from streams.wire.record import Place

log = logging.getLogger(__name__)

ASK_EVERY_S = 1.0
LONG_S = 5.0
"""A transaction that is open for longer is worth a line in the log."""


@dataclass(slots=True)
class _Standing:
    stable: int
    """The offset that nothing can be read from on while it is open."""
    since: float
    said: bool = False


class OpenTransactions:
    """Asks, where a partition was not read to its end, whether that is why. Measures how long each has stood."""

    def __init__(self, admin: AdminClient) -> None:
        self._question = EndsQuestion(admin, committed=True)
        self._ends: Mapping[Place, int] = {}
        self._ask_at = 0.0
        self._standing: dict[Place, _Standing] = {}

    def look(self, ends: Mapping[Place, int], read: Mapping[Place, int]) -> None:
        """Never waits.

        Args:
            ends: the next offset of each partition, committed or not.
            read: the next offset to be handled.
        """
        answer = self._question.answer()
        if answer is not None:
            self._note(answer.offsets)
        now = time.monotonic()
        behind = [place for place in read if read[place] < ends.get(place, 0)]
        if not behind and self._standing and not self._question.open:
            self._note({})
        if behind and now >= self._ask_at and not self._question.open:
            self._ask_at, self._ends = now + ASK_EVERY_S, dict(ends)
            self._question.ask(behind)

    def _note(self, stable: Mapping[Place, int]) -> None:
        now = time.monotonic()
        standing = {place: offset for place, offset in stable.items() if offset < self._ends.get(place, 0)}
        for place in self._standing.keys() - standing.keys():
            if self._standing.pop(place).said:
                log.info("%s[%d]: the open transaction has ended", *place)
        for place, offset in standing.items():
            held = self._standing.get(place)
            if held is None or held.stable != offset:
                held = self._standing[place] = _Standing(offset, now)
            if not held.said and now - held.since > LONG_S:
                held.said = True
                log.warning(
                    "%s[%d]: a sender's transaction has been open at offset %d for %.0f s; nothing after it can be "
                    "read, and no window of the join closes, until it ends or times out",
                    *place,
                    offset,
                    now - held.since,
                )
        topics = {topic for topic, _ in self._ends}
        for topic in topics:
            ages = [now - held.since for place, held in self._standing.items() if place[0] == topic]
            metric.OPEN_TRANSACTION_SECONDS.labels(topic).set(max(ages, default=0.0))
