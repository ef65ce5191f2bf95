"""A ranker for tests that does what the real one cannot be made to do: it answers as a function says, or sleeps."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import TopicPartition

from streams.codec import decode, encode
from streams.kafka import Kafka
from streams.messages import RankingRequest, RankingResponse
from streams.topics import REQUESTS, RESPONSES, TOPICS

Answer = Callable[[RankingRequest, int], Sequence[RankingResponse]]
"""The responses of a request, that is the n-th from 1."""


class Ranker:
    """Answers requests that are sent after it was made; none while `asleep`, and all that came meanwhile then."""

    def __init__(self, kafka: Kafka, answer: Answer) -> None:
        self._answer = answer
        self._reader = kafka.reader(eof=False)
        starts = [TopicPartition(REQUESTS, p) for p in kafka.partitions(REQUESTS)]
        for start in starts:
            start.offset = self._reader.get_watermark_offsets(start, timeout=10.0)[1]
        self._reader.assign(starts)
        self._producer = kafka.producer()
        self.asleep = threading.Event()
        self.stop = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            message = self._reader.poll(0.02)
            while self.asleep.is_set():
                time.sleep(0.01)
            if message is not None and message.error() is None:
                number += 1
                request: RankingRequest = decode(TOPICS[REQUESTS], message.value())
                for response in self._answer(request, number):
                    self._producer.produce(RESPONSES, encode(TOPICS[RESPONSES], response), request.user)
            self._producer.poll(0)
        self._producer.flush(5)
        self._reader.close()


@contextmanager
def answering(kafka: Kafka, answer: Answer) -> Iterator[Ranker]:
    ranker = Ranker(kafka, answer)
    thread = threading.Thread(target=ranker.run)
    thread.start()
    try:
        yield ranker
    finally:
        ranker.asleep.clear()
        ranker.stop.set()
        thread.join()
