"""Records that are deleted on purpose, kept aside: an audit has to account for them too.

What a worker had read of them is given to the audit as if the broker still had it. What it had not is truly lost, to us
as to it: those are counted here, and no one else may miss a record.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from confluent_kafka import TopicPartition

from benchmarks.lab.judging import PATIENCE_S
from streams.audit import run as audit
from streams.audit.source import Source
from streams.kafka.connection import Kafka
from streams.kafka.scan import ends, read_topic
from streams.wire.record import Record
from streams.wire.topics import REQUESTS

_MISSED = re.compile(r"(\S+)\[(\d+)\]: (\d+) to (\d+) were deleted before they were read")
"""As workers say it (streams/kafka/gaps.py)."""
Place = tuple[str, int]
NOTED_S = 2.0
"""Seconds for the broker to write down where its logs begin now; killed before, it would have the records back."""


class Archive:
    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._kept: defaultdict[str, list[Record]] = defaultdict(list)
        self._deleted: Counter[str] = Counter()
        """Offsets of each topic, as it is now, that retention has taken."""
        self._deleted_before: dict[Place, int] = {}
        self.unread: list[Record] = []
        """Deleted before whom they concern had read them."""
        self.lost: list[Record] = []
        """Those of them that leave no trace anywhere."""

    def delete(self, topic: str, before: Mapping[int, int], *, read: Mapping[int, int], loses: bool) -> None:
        """Deletes what lies before these offsets, by partition, as retention does.

        Args:
            read: the offset, by partition, before which all was read by whom it concerns.
            loses: what was not read is lost to an audit too, which else goes by what was once there.
        """
        low = {partition: first for partition, (first, _) in ends(self._kafka, topic).items()}
        for record in read_topic(self._kafka, topic):
            if record.offset < before[record.partition]:
                unread = record.offset >= read[record.partition]
                (self.lost if unread and loses else self._kept[topic]).append(record)
                self.unread += [record] if unread else []
        wanted = [TopicPartition(topic, p, offset) for p, offset in before.items() if offset > low[p]]
        admin = self._kafka.admin()  # which must outlive what it is asked
        for future in admin.delete_records(wanted).values() if wanted else ():
            future.result(PATIENCE_S)
        time.sleep(NOTED_S)
        self._deleted[topic] += sum(place.offset - low[place.partition] for place in wanted)
        for place in wanted:
            key = (topic, place.partition)
            self._deleted_before[key] = max(place.offset, self._deleted_before.get(key, 0))

    def close(self, topic: str) -> None:
        """All of the topic is kept; it is about to be deleted.

        Its offsets will be given again. The old ones are moved below 0: before all that anyone may have yet to read.
        """
        end = {partition: high for partition, (_, high) in ends(self._kafka, topic).items()}
        # Requests are answered before their transaction ends, and so also where it is aborted.
        records = [*self._kept[topic], *read_topic(self._kafka, topic, uncommitted=topic == REQUESTS)]
        self._kept[topic] = [replace(record, offset=record.offset - end[record.partition]) for record in records]
        self._deleted[topic] = 0

    def of(self, topic: str) -> list[Record]:
        return self._kept[topic]

    def untold(self, logs: Path) -> list[str]:
        """What the workers' logs did not say of what was deleted unread, and what they said of what was not."""
        said: defaultdict[Place, set[int]] = defaultdict(set)
        for log in logs.glob("*.log"):
            for topic, partition, first, last in _MISSED.findall(log.read_text(errors="replace")):
                said[topic, int(partition)] |= set(range(int(first), int(last) + 1))
        wrong = [f"{r} was missed without a word" for r in self.unread if r.offset not in said[r.topic, r.partition]]
        for place, offsets in said.items():
            if beyond := [offset for offset in offsets if offset >= self._deleted_before.get(place, 0)]:
                wrong.append(f"{len(beyond)} records of {place} were called deleted and were not")
        return wrong

    @contextmanager
    def told_to_the_audit(self) -> Iterator[None]:
        """Audits that run in this block know of all that is kept here."""
        archive = self

        class Whole(Source):
            def read(self, topic: str) -> Iterator[Record]:
                yield from archive.of(topic)
                yield from super().read(topic)
                self.let_go[topic] -= archive._deleted[topic]

        audit.Source = Whole  # type: ignore[attr-defined]
        try:
            yield
        finally:
            audit.Source = Source  # type: ignore[attr-defined]
