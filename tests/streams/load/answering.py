"""A ranker for tests: it answers at once, or not while it is asleep, or as badly as it is told."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from confluent_kafka import TopicPartition

from streams.codec import decode, encode
from streams.kafka import Kafka
from streams.messages import RankedItem, RankingRequest, RankingResponse, Timings
from streams.topics import REQUESTS, RESPONSES, TOPICS


@dataclass(slots=True)
class Ranker:
    kafka: Kafka
    never_every: int | None = None
    """Every so manieth request gets no answer."""
    fallback_every: int | None = None
    """Every so manieth request gets a flagged fallback."""
    asleep: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    ready: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        reader, producer = self.kafka.reader(eof=False), self.kafka.producer()
        starts = [TopicPartition(REQUESTS, p) for p in self.kafka.partitions(REQUESTS)]
        for start in starts:
            start.offset = reader.get_watermark_offsets(start, timeout=10.0)[1]
        reader.assign(starts)
        self.ready.set()
        number = 0
        while not self.stop.is_set():
            message = reader.poll(0.01)
            while self.asleep.is_set() and not self.stop.is_set():
                time.sleep(0.005)
            if message is not None and message.error() is None:
                number += 1
                response = self._answer(decode(TOPICS[REQUESTS], message.value()), number)
                if response is not None:
                    producer.produce(RESPONSES, encode(TOPICS[RESPONSES], response), response.user)
            producer.poll(0)
        producer.flush(5)
        reader.close()

    def _answer(self, request: RankingRequest, number: int) -> RankingResponse | None:
        if self.never_every and number % self.never_every == 0:
            return None
        fallback = self.fallback_every is not None and number % self.fallback_every == 0
        return RankingResponse(
            response_id=f"{request.request_id}-r",
            request_id=request.request_id,
            user=request.user,
            status="fallback" if fallback else "ok",
            reason="expired" if fallback else None,
            items=[
                RankedItem(item=c.item, pctr=None if fallback else 0.1) for c in request.candidates[: request.top_k]
            ],
            tier=None if fallback else "only",
            timings=None if fallback else Timings(decode=0.1, fetch=0.2, route=0.3, score=4.0),
        )


@contextmanager
def answering(kafka: Kafka, *, never_every: int | None = None, fallback_every: int | None = None) -> Iterator[Ranker]:
    ranker = Ranker(kafka, never_every, fallback_every)
    thread = threading.Thread(target=ranker.run)
    thread.start()
    try:
        assert ranker.ready.wait(10)
        yield ranker
    finally:
        ranker.stop.set()
        thread.join()
