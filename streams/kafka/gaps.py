"""What the broker deleted before it was read: noticed, told and counted by every reader.

Offsets are not records. Transactions leave markers among them, aborted records are never handed out, and a compacted
topic has holes; so a hole in what was read counts only as far as the broker keeps nothing there any more.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaException, TopicPartition

from streams.runtime import metrics as metric
from streams.runtime.sparing import Sparing
from streams.wire.record import Place, Record

log = logging.getLogger(__name__)

ASK_EVERY_S = 1.0
"""A sender of many small transactions makes many holes: the broker is asked about a partition at most so often."""
ASK_TIMEOUT_S = 1.0


class GapWatch:
    """Follows the offsets of one consumer; `consumer` is whom it asks what is kept."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._next: dict[Place, int] = {}
        self._holes: dict[Place, list[tuple[int, int]]] = {}
        """First offset and the one after the last, of what was not handed out and is not explained yet."""
        self._ask_at: dict[Place, float] = {}
        self._said = Sparing()
        self.missed = 0
        """Offsets that the broker had let go of before they were read."""

    def start(self, places: Mapping[Place, int]) -> None:
        """These are read from there on; a negative offset says that whatever comes first will do."""
        for place, offset in places.items():
            metric.RECORDS_MISSED.labels(place[0])  # there from the beginning: a rate of what appears at 40 is 0
            self._holes.pop(place, None)
            if offset >= 0:
                self._next[place] = offset
            else:
                self._next.pop(place, None)

    def drop(self, places: Iterable[Place]) -> None:
        """These are read no more."""
        for place in places:
            for of_place in (self._next, self._holes, self._ask_at):
                of_place.pop(place, None)

    def see(self, records: Sequence[Record]) -> None:
        """Takes note of records as they come, in order within each partition. May wait for the broker a moment."""
        for record in records:
            place = (record.topic, record.partition)
            expected = self._next.get(place, record.offset)
            if record.offset > expected:
                self._holes.setdefault(place, []).append((expected, record.offset))
            elif record.offset < expected:
                log.warning("%s: %d was to come next; the topic was made anew, or its log cut", record, expected)
            self._next[place] = record.offset + 1
        if self._holes:
            self._explain()

    def _explain(self) -> None:
        now = time.monotonic()
        for place in [place for place in self._holes if now >= self._ask_at.get(place, 0.0)]:
            self._ask_at[place] = now + ASK_EVERY_S
            try:
                kept, _ = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=ASK_TIMEOUT_S)
            except KafkaException as error:
                if self._said.due(place):
                    log.warning("%s[%d]: not known yet what is kept: %s", *place, error.args[0].str())
                continue
            for first, after in self._holes.pop(place):
                self._tell(place, first, min(kept, after))

    def _tell(self, place: Place, first: int, after: int) -> None:
        if after <= first:
            return
        log.error("%s[%d]: %d to %d were deleted before they were read (retention?)", *place, first, after - 1)
        metric.RECORDS_MISSED.labels(place[0]).inc(after - first)
        self.missed += after - first
