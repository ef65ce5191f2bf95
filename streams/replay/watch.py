"""How far the system has come with what a replay sent: stored, joined, learned. Read from topics and Redis alone."""

from bisect import bisect_right
from collections import defaultdict

from confluent_kafka import Consumer, TopicPartition

from feature_store.join import Joiner
from ranker.updates.record import MalformedRecord, UpdateHeader, peek_header
from streams.errors import Refused
from streams.kafka.connection import Kafka, watermarks
from streams.kafka.update_reader import UpdateReader
from streams.replay.graded import NEVER, Graded, in_order
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import TrainingExample
from streams.wire.record import Record
from streams.wire.topics import EXAMPLES, TOPICS, UPDATES


class Watch:
    """Follows examples and updates from where they stood when it was made."""

    def __init__(self, kafka: Kafka, joiner: Joiner) -> None:
        self._joiner = joiner
        self._examples: Consumer = kafka.reader(eof=False)
        starts = {p: watermarks(self._examples, EXAMPLES, p)[1] for p in kafka.partitions(EXAMPLES)}
        self._examples.assign([TopicPartition(EXAMPLES, p, start) for p, start in starts.items()])
        self._updates = UpdateReader(kafka, start=watermarks(self._examples, UPDATES, 0)[1])
        self._next = dict(starts)
        self._learned = dict(starts)
        self._seen: set[str] = set()
        self._progress: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        """By partition, ascending: an offset, and the update that had learned all before it first."""
        self._places: list[tuple[int, int]] = []
        """Partition and offset of each graded example."""
        self.graded: list[Graded] = []
        """Click examples that carry a prediction, each once, in the order in which they were produced."""
        self.repeated = 0
        """Examples that came again under their id."""
        self.updates = 0

    def poll(self) -> None:
        """Takes in what has come; does not wait."""
        for message in self._examples.consume(1000, timeout=0):
            if message.error() is None:
                self._take(Record.of(message))
        for record in self._updates.poll(100):
            try:
                header = peek_header(record.value or b"")
            except MalformedRecord:
                continue  # the followers that apply updates count those
            if isinstance(header, UpdateHeader):
                self.updates += header.part == 0
                for partition, offset in header.offsets.items():
                    self._take_learned(int(partition), offset, in_order(header.epoch, header.number))

    def unlearned(self) -> int:
        """Examples produced and not in any update yet."""
        return sum(max(0, end - self._learned.get(p, 0)) for p, end in self._next.items())

    def stored(self, offsets: dict[tuple[str, int], int]) -> bool:
        """Whether everything before these offsets is in Redis."""
        reached = self._joiner.offsets()
        return all(reached.get(place, 0) >= offset for place, offset in offsets.items())

    def close(self) -> None:
        self._examples.close()
        self._updates.close()

    def learned_by(self) -> list[int]:
        """Update by which each graded example was learned; NEVER where it was not."""
        found = []
        for partition, offset in self._places:
            progress = self._progress[partition]
            at = bisect_right(progress, offset, key=lambda reached: reached[0])
            found.append(progress[at][1] if at < len(progress) else NEVER)
        return found

    def _take_learned(self, partition: int, offset: int, update: int) -> None:
        if offset > self._learned.get(partition, 0):
            self._learned[partition] = offset
            self._progress[partition].append((offset, update))

    def _take(self, record: Record) -> None:
        self._next[record.partition] = record.offset + 1
        try:
            example: TrainingExample = decode(TOPICS[EXAMPLES], record.value, record.header(CONTENT_TYPE))
        except Refused:
            return  # no example that ingest made
        if example.example_id in self._seen:
            self.repeated += 1
            return
        self._seen.add(example.example_id)
        if (graded := to_graded(example)) is not None:
            self.graded.append(graded)
            self._places.append((record.partition, record.offset))


def to_graded(example: TrainingExample) -> Graded | None:
    """What an example says of its impression's click; None where it says nothing, or nothing final."""
    if example.kind != "click" or example.provisional:
        return None
    return Graded(
        response_id=example.response_id,
        label=float(example.label),
        predicted=example.pctr,
        event_ms=example.event_ms,
        label_ms=example.label_ms,
        served_by=in_order(example.model.epoch, example.model.number),
        tier=example.tier,
    )
