"""Deliveries of a worker, and the offsets that may be committed once they are acknowledged.

A batch is open from its first `send` to its `seal`. Batches are acknowledged in any order; their offsets become
committable in the order of sealing, so a committed offset never passes a record whose effects are still under way.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from streams.errors import DeliveryFailed
from streams.kafka.connection import topic_partitions
from streams.wire.signing import Signer
from streams.wire.topics import TOPICS

COMMIT_EVERY_S = 0.1
"""Least time between two commits, by default. After a crash what was not committed yet is done again."""

Offsets = dict[tuple[str, int], int]
Headers = Mapping[str, str | bytes | None]


@dataclass(slots=True)
class _Batch:
    offsets: Offsets = field(default_factory=dict)
    then: Callable[[], None] | None = None
    waiting: int = 0


class Outbox:
    """Produces for one consumer loop, and commits behind the acknowledgements.

    At most `max_batches` sealed batches may wait; then `seal` waits for the oldest, at most a second at a time, and
    raises DeliveryFailed if the broker gave a record up.
    """

    def __init__(
        self,
        producer: Producer,
        *,
        max_batches: int = 64,
        commit_every_s: float = COMMIT_EVERY_S,
        signer: Signer | None = None,
    ) -> None:
        self._producer = producer
        self._commit_every_s = commit_every_s
        self._commit_due = 0.0
        self._committable: Offsets = {}
        """Offsets that wait for the next commit."""
        self._signer = signer
        self._max_batches = max_batches
        self._open = _Batch()
        self._sealed: deque[_Batch] = deque()
        self._failure: str | None = None
        self.newest: dict[str, int] = {}
        """Offset of the newest acknowledged record, by topic (of use where the topic has one partition)."""

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: str | bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        undelivered: Callable[[str], None] | None = None,
    ) -> None:
        """Queues a record; raises KafkaException where it can never be sent (too large, say).

        undelivered: where the broker does not take the record, this is called with the reason, and the outbox goes on.
        What it sends belongs to the record's batch.
        """
        if partition is None and topic in TOPICS and TOPICS[topic].partitions == 1:
            partition = 0  # the in-memory broker gives every topic more
        if self._signer is not None:
            headers = {**(headers or {}), **self._signer.headers(topic, value)}
        batch = self._open
        batch.waiting += 1
        try:
            self._produce(topic, value, key, headers, partition, batch, undelivered)
        except BaseException:
            batch.waiting -= 1
            raise

    def _produce(
        self,
        topic: str,
        value: bytes,
        key: str | bytes | None,
        headers: Headers | None,
        partition: int | None,
        batch: _Batch,
        undelivered: Callable[[str], None] | None,
    ) -> None:
        def delivered(error: KafkaError | None, record: Message) -> None:
            if error is None:
                self.newest[topic] = record.offset() or 0
            elif undelivered is None:
                self._failure = f"{topic}: {error.str()}"
            else:
                later, self._open = self._open, batch
                try:
                    undelivered(error.str())
                finally:
                    self._open = later
            batch.waiting -= 1  # last: the batch also waits for what was sent in its place

        to = -1 if partition is None else partition  # -1: by the key
        deadline = time.monotonic() + 1.0
        while True:
            try:
                self._producer.produce(
                    topic, value, key, to, on_delivery=delivered, headers=list((headers or {}).items())
                )
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise DeliveryFailed(f"{topic}: the producer's queue stayed full for a second") from None
                self._producer.poll(0.05)

    def seal(self, offsets: Offsets, then: Callable[[], None] | None = None) -> None:
        """Ends the batch: once all that was sent in it is acknowledged, `then` is called and `offsets` committed."""
        self._open.offsets, self._open.then = dict(offsets), then
        self._sealed.append(self._open)
        self._open = _Batch()
        while len(self._sealed) > self._max_batches and self._sealed[0].waiting:
            self._producer.poll(1.0)
            self.raise_failure()

    def discard(self) -> None:
        """Forgets the open batch: what it sent stands, but its offsets will not be committed (they are read again)."""
        self._open = _Batch()

    def poll(self) -> None:
        """Serves delivery reports."""
        self._producer.poll(0)
        self.raise_failure()

    def commit(self, consumer: Consumer) -> None:
        """Serves delivery reports, then commits what has become committable, without waiting for the broker: once in
        `commit_every_s`, as a commit costs a broker as much as a record."""
        self.poll()
        self._committable |= self._ready()
        if self._committable and time.monotonic() >= self._commit_due:
            self._commit_due = time.monotonic() + self._commit_every_s
            offsets, self._committable = self._committable, {}
            consumer.commit(offsets=topic_partitions(offsets), asynchronous=True)

    def drain(self, consumer: Consumer, timeout_s: float) -> bool:
        """Waits for what is under way, then commits and waits for that. False if something is still on its way."""
        self._producer.flush(timeout_s)
        self.raise_failure()
        offsets, self._committable = self._committable | self._ready(), {}
        if offsets:
            try:
                consumer.commit(offsets=topic_partitions(offsets), asynchronous=False)
            except KafkaException as error:
                # The group has moved on (a partition was taken over): its new owner reads those records again.
                if not _is_group_error(error):
                    raise
        return not self._sealed

    def _ready(self) -> Offsets:
        done = list(takewhile(lambda batch: batch.waiting == 0, self._sealed))
        offsets: Offsets = {}
        for batch in done:
            if batch.then is not None:
                batch.then()
            self._sealed.popleft()
            offsets |= batch.offsets
        return offsets

    def raise_failure(self) -> None:
        """Raises DeliveryFailed if the broker gave a record up since."""
        if self._failure is not None:
            raise DeliveryFailed(f"{self._failure}; nothing behind it was committed, the restart reads it again")


def _is_group_error(error: KafkaException) -> bool:
    return error.args[0].name() in {
        "ILLEGAL_GENERATION",
        "UNKNOWN_MEMBER_ID",
        "REBALANCE_IN_PROGRESS",
        "FENCED_INSTANCE_ID",
        "_ASSIGNMENT_LOST",
        "_STATE",
        "_NO_OFFSET",
    }
