"""A ranker for tests that does what the real one cannot be made to do: it answers as a function says, or naps."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import TopicPartition

from streams.kafka.connection import Kafka
from streams.wire.codec import decode, encode
from streams.wire.messages import RankingRequest, RankingResponse
from streams.wire.topics import REQUESTS, RESPONSES, TOPICS

Answer = Callable[[RankingRequest, int], Sequence[RankingResponse]]
"""The responses of a request, that is the n-th from 1."""


class Ranker:
    """Answers requests that are sent after it was made; with the first one in hand it naps, and all others wait."""

    def __init__(self, kafka: Kafka, answer: Answer, nap_s: float) -> None:
        self._answer, self._nap_s = answer, nap_s
        self._reader = kafka.reader(eof=False)
        starts = [TopicPartition(REQUESTS, p) for p in kafka.partitions(REQUESTS)]
        for start in starts:
            start.offset = self._reader.get_watermark_offsets(start, timeout=10.0)[1]
        self._reader.assign(starts)
        self._producer = kafka.producer()
        self.stop = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            message = self._reader.poll(0.02)
            if message is not None and message.error() is None:
                number += 1
                if number == 1:
                    time.sleep(self._nap_s)
                request: RankingRequest = decode(TOPICS[REQUESTS], message.value())
                for response in self._answer(request, number):
                    self._producer.produce(RESPONSES, encode(TOPICS[RESPONSES], response), request.user)
            self._producer.poll(0)
        self._producer.flush(5)
        self._reader.close()


@contextmanager
def answering(kafka: Kafka, answer: Answer, *, nap_s: float = 0.0) -> Iterator[None]:
    ranker = Ranker(kafka, answer, nap_s)
    thread = threading.Thread(target=ranker.run)
    thread.start()
    try:
        yield
    finally:
        ranker.stop.set()
        thread.join()
