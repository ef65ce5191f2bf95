"""The rival of ingest: what a good engineer would write in an afternoon.

    python -m benchmarks.lab.plain_join BOOTSTRAP REDIS_URL CLICK_WINDOW_MS

Served records and logs in Redis, by one pipeline a batch; what was not clicked within its window becomes an example
with label 0, a click one with label 1. Offsets are committed each second. An event that comes twice is stored and
learned twice; what a crash cuts off between Redis, the examples and the commit is lost or doubled; a click that
overtakes its impression is lost; windows close by the newest event that was read, whatever waits elsewhere.
"""

import signal
import sys
import time
from types import FrameType

from redis import Redis

from feature_store.events import LogEvent, action_code, encode_event, surface_code
from ranker.inputs.hashing import hash64
from streams.kafka.connection import Kafka
from streams.wire.codec import decode, encode
from streams.wire.messages import Impression, Served, TrainingExample
from streams.wire.record import Record
from streams.wire.topics import CONVERSIONS, EXAMPLES, IMPRESSIONS, SERVED, TOPICS

GROUP = "plain"
BATCH = 500
LOG_LENGTH = 512
STATE_S = 3_600
SWEEP_EVERY_S = 0.1
_DUE = "plain:due"


class PlainJoin:
    def __init__(self, kafka: Kafka, redis: Redis, window_ms: int) -> None:
        self._redis, self._window_ms = redis, window_ms
        self._producer = kafka.producer(linger_ms=1.0)
        self._newest_ms = 0

    def take(self, records: list[Record]) -> None:
        clicked: list[str] = []
        with self._redis.pipeline(transaction=False) as pipe:
            for record in records:
                message = decode(TOPICS[record.topic], record.value)
                self._newest_ms = max(self._newest_ms, message.event_ms)
                if record.topic == SERVED:
                    pipe.set(f"plain:served:{message.response_id}", record.value or b"", ex=STATE_S)
                    continue
                if record.topic == IMPRESSIONS:
                    pipe.set(f"plain:shown:{message.event_id}", encode(TOPICS[IMPRESSIONS], message), ex=STATE_S)
                    pipe.zadd(_DUE, {message.event_id: message.event_ms + self._window_ms})
                elif message.impression_id:
                    clicked.append(message.impression_id)
                    pipe.zrem(_DUE, message.impression_id)
                item = getattr(message, "item", None) or ""
                kind = "impression" if record.topic == IMPRESSIONS else message.kind
                event = LogEvent(
                    time_s=message.event_ms // 1000, item=hash64(item), action=action_code(kind),
                    surface=surface_code("default"), value=0.0,
                )  # fmt: skip
                pipe.lpush(f"plain:log:{message.user}", encode_event(event))
                pipe.ltrim(f"plain:log:{message.user}", 0, LOG_LENGTH - 1)
            pipe.execute()
        self._teach(clicked, 1.0)

    def sweep(self) -> None:
        due = [name.decode() for name in self._redis.zrangebyscore(_DUE, "-inf", self._newest_ms, start=0, num=1_000)]  # type: ignore[union-attr]
        if due:
            self._teach(due, 0.0)
            self._redis.zrem(_DUE, *due)
        self._producer.poll(0)

    def _teach(self, impressions: list[str], label: float) -> None:
        if not impressions:
            return
        shown = [self._impression(value) for value in self._values(f"plain:shown:{name}" for name in impressions)]
        there = [one for one in shown if one is not None]
        pages = self._values(f"plain:served:{one.response_id}" for one in there)
        for one, page in zip(there, pages, strict=True):
            if page is not None:
                example = example_of(decode(TOPICS[SERVED], page), one, label)
                self._producer.produce(EXAMPLES, encode(TOPICS[EXAMPLES], example), one.user)

    def _values(self, keys: object) -> list[bytes | None]:
        names = list(keys)  # type: ignore[call-overload]
        return self._redis.mget(names) if names else []  # type: ignore[return-value]

    @staticmethod
    def _impression(value: bytes | None) -> Impression | None:
        return None if value is None else decode(TOPICS[IMPRESSIONS], value)


def example_of(served: Served, shown: Impression, label: float) -> TrainingExample:
    item = next(item for item in served.items if item.item == shown.item)
    return TrainingExample(
        example_id=f"click:{shown.event_id}", kind="click", label=label, value=0.0, response_id=served.response_id,
        user=served.user, item=item.item, position=shown.position, surface=served.surface, event_ms=served.event_ms,
        log=served.log, features=served.features, context=served.context, item_features=item.features,
        tier=served.tier, pctr=item.pctr, pcvr=item.pcvr, model=served.model, trigger_ms=0, by_window=label == 0,
        label_ms=shown.event_ms, shown_ms=shown.event_ms,
    )  # fmt: skip


def main() -> None:
    bootstrap, redis_url, window_ms = sys.argv[1:]
    kafka, stopped = Kafka(bootstrap, {}), False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    join = PlainJoin(kafka, Redis.from_url(redis_url), int(window_ms))
    consumer = kafka.group_consumer(GROUP, "one")
    consumer.subscribe([SERVED, IMPRESSIONS, CONVERSIONS])
    sweep_due = commit_due = 0.0
    uncommitted = False
    while not stopped:
        first = consumer.poll(0.05)
        messages = [first, *consumer.consume(BATCH - 1, timeout=0)] if first is not None else []
        records = [Record.of(message) for message in messages if message.error() is None]
        if records:
            join.take(records)
        now = time.monotonic()
        if now >= sweep_due:
            sweep_due = now + SWEEP_EVERY_S
            join.sweep()
        uncommitted = uncommitted or bool(records)
        if now >= commit_due and uncommitted:
            commit_due, uncommitted = now + 1.0, False
            consumer.commit(asynchronous=True)
    consumer.close()


if __name__ == "__main__":
    main()
