"""The ad system's side: send requests and await the first response of each, report impressions and conversions.

    from streams.client import Candidate, Kafka, RankingClient, RankingRequest

    with RankingClient(Kafka.from_environment()) as client:  # at TIDERANK_BOOTSTRAP
        response = client.rank(RankingRequest(request_id="r1", user="u1", candidates=[Candidate(item="ad-1")]))

Also importable where nothing else of tiderank runs: it needs confluent-kafka and msgspec alone.
"""

import time
from types import TracebackType

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from streams.errors import DeliveryFailed, Refused, StreamError
from streams.kafka.connection import Kafka, watermarks
from streams.wire.codec import decode, encode
from streams.wire.headers import DEADLINE_MS, REPLY_TOPIC
from streams.wire.messages import Candidate, Conversion, Impression, RankedItem, RankingRequest, RankingResponse
from streams.wire.record import Record
from streams.wire.topics import CONVERSIONS, IMPRESSIONS, REQUESTS, RESPONSES, TOPICS

__all__ = [
    "Candidate",
    "Conversion",
    "DeliveryFailed",
    "Impression",
    "Kafka",
    "RankedItem",
    "RankingClient",
    "RankingRequest",
    "RankingResponse",
    "Refused",
]
REMEMBERED = 100_000
FIRST_ANSWER_S = 30.0


class RankingClient:
    """One thread's client.

    Later responses to a request are dropped and counted in `repeats`; those to other clients are dropped.
    `acknowledged` holds, by topic and partition, the offset after the newest record that the broker has taken.
    """

    def __init__(self, kafka: Kafka, *, reply_topic: str = RESPONSES, linger_ms: float = 0.0) -> None:
        kafka.check()
        self._producer = kafka.producer(linger_ms=linger_ms)
        # Else somebody's open transaction on the reply topic would hold back all answers.
        self._reader = kafka.reader(eof=False, uncommitted=True)
        self._reply_topic = reply_topic
        self._waiting: set[str] = set()
        self._answered: dict[str, None] = {}
        """Requests that were answered, oldest first: as many as a worker can repeat after a crash, and more."""
        self._early: dict[str, RankingResponse] = {}
        self._undelivered: dict[str, str] = {}
        """By request id, why the broker did not take it."""
        self.repeats = 0
        self.delivery_errors = 0
        self.acknowledged: dict[tuple[str, int], int] = {}
        # From here on, resolved now: a request sent right after this line must not miss its answer.
        ends = {p: watermarks(self._reader, reply_topic, p)[1] for p in kafka.partitions(reply_topic)}
        self._reader.assign([TopicPartition(reply_topic, p, end) for p, end in ends.items()])

    def send(self, request: RankingRequest, *, deadline_ms: int | None = None) -> None:
        """Queues the request, keyed by its user; `deadline_ms` counts from the broker's timestamp of the record."""
        headers = {} if self._reply_topic == RESPONSES else {REPLY_TOPIC: self._reply_topic}
        if deadline_ms is not None:
            headers[DEADLINE_MS] = str(deadline_ms)
        self._waiting.add(request.request_id)
        self._produce(REQUESTS, encode(TOPICS[REQUESTS], request), request.user, headers, request.request_id)

    def send_impression(self, impression: Impression) -> None:
        self._produce(IMPRESSIONS, encode(TOPICS[IMPRESSIONS], impression), impression.user, {})

    def send_conversion(self, conversion: Conversion) -> None:
        self._produce(CONVERSIONS, encode(TOPICS[CONVERSIONS], conversion), conversion.user, {})

    def poll(self, timeout_s: float = 0.0) -> list[tuple[RankingResponse, int]]:
        """First responses that have come, each with its broker timestamp in ms; waits for one up to `timeout_s`."""
        self._producer.poll(0)
        first = self._reader.poll(timeout_s)
        if first is None:
            return []
        found = (self._accept(m) for m in (first, *self._reader.consume(1000, timeout=0)))
        return [response for response in found if response is not None]

    def rank(
        self, request: RankingRequest, *, timeout_s: float = 5.0, deadline_ms: int | None = None
    ) -> RankingResponse:
        """Sends and waits. Raises TimeoutError if no response has come by then, and DeliveryFailed where the broker did
        not take the request (too large, say)."""
        self.send(request, deadline_ms=deadline_ms)
        deadline = time.monotonic() + timeout_s
        while request.request_id not in self._early:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no response to {request.request_id} in {timeout_s} s; is `tiderank rank` running?")
            self._early |= {response.request_id: response for response, _ in self.poll(min(left, 0.1))}
            if reason := self._undelivered.pop(request.request_id, None):
                self._waiting.discard(request.request_id)
                raise DeliveryFailed(f"the broker did not take request {request.request_id}: {reason}")
        return self._early.pop(request.request_id)

    def await_model(self, *, prefix: str = "first", event_ms: int | None = None, timeout_s: float = 120.0) -> None:
        """Returns once a request is scored: a new system answers with fallbacks until its model's first update.

        Sends requests of one user and one item, whose ids begin with `prefix`, dated `event_ms`. Raises StreamError
        saying what to check if none is answered in half a minute, or none is scored in `timeout_s`.
        """
        end_s, tries, found = time.monotonic() + timeout_s, 0, ""
        while time.monotonic() < end_s:
            tries += 1
            request = RankingRequest(
                request_id=f"{prefix}-{time.time_ns()}-{tries}",
                user=f"{prefix}-user",
                candidates=[Candidate(item=f"{prefix}-item")],
                event_ms=event_ms,
            )
            try:
                response = self.rank(request, timeout_s=FIRST_ANSWER_S, deadline_ms=int(1000 * FIRST_ANSWER_S))
            except TimeoutError as error:
                raise StreamError(
                    f"no request is answered within {FIRST_ANSWER_S:.0f} s; check that `tiderank rank` runs against "
                    "the same broker (TIDERANK_BOOTSTRAP): `tiderank doctor` says what answers there"
                ) from error
            if response.status == "ok":
                return
            found = f"{response.status}, {response.reason}"
            time.sleep(0.1)
        raise StreamError(f"no request is scored within {timeout_s:.0f} s ({found}); is `tiderank train` running?")

    def flush(self, timeout_s: float = 10.0) -> None:
        """Raises TimeoutError if something sent is not acknowledged by then."""
        if left := self._producer.flush(timeout_s):
            raise TimeoutError(f"{left} records were not acknowledged in {timeout_s} s")

    def close(self) -> None:
        self._producer.flush(10.0)
        self._reader.close()

    def __enter__(self) -> "RankingClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self, message: Message) -> tuple[RankingResponse, int] | None:
        if (error := message.error()) is not None:
            if error.fatal():
                raise KafkaException(error)
            return None
        record = Record.of(message)
        try:
            response: RankingResponse = decode(TOPICS[RESPONSES], record.value, record.header("content-type"))
        except Refused:
            return None  # someone else's record on a shared reply topic
        if response.request_id not in self._waiting:
            self.repeats += response.request_id in self._answered
            return None
        self._waiting.discard(response.request_id)
        self._answered[response.request_id] = None
        if len(self._answered) > REMEMBERED:
            del self._answered[next(iter(self._answered))]
        return response, record.timestamp_ms

    def _produce(
        self, topic: str, value: bytes, key: str, headers: dict[str, str], request_id: str | None = None
    ) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            self._on_delivery(error, message)
            if error is not None and request_id is not None:
                self._undelivered[request_id] = error.str()

        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=delivered, headers=list(headers.items()))
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.delivery_errors += 1
            return
        place = (message.topic() or "", message.partition() or 0)
        self.acknowledged[place] = max(self.acknowledged.get(place, 0), (message.offset() or 0) + 1)
