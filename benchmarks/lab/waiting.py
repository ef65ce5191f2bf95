"""Pages and their events that wait on the topics: what was served, what was looked at, what was clicked."""

import time
from collections.abc import Iterator, Sequence

import msgspec
from confluent_kafka import Producer

from streams.kafka.connection import Kafka
from streams.wire.codec import encode
from streams.wire.messages import Conversion, Decision, Impression, Served
from streams.wire.topics import CONVERSIONS, DECISIONS, IMPRESSIONS, SERVED, TOPICS

APART_MS = 10
"""Event time between two pages: a hundred come a second."""
LOOKED_AT = 4
"""Items of a page that are looked at."""
CLICK_EVERY = 10
USERS = 2_000
_LOOK_AFTER_MS, _CLICK_AFTER_MS = 300, 700

Sent = tuple[str, str, msgspec.Struct]
"""Topic, user, message."""


def put_pages(kafka: Kafka, like: Sequence[Served], decided: Sequence[Decision], pages: int) -> int:
    """Puts so many pages on the topics, made like those, with the events of each; returns how many records ingest will
    read. The last of them lies a moment back."""
    producer, count = kafka.producer(linger_ms=20.0), 0
    begin_ms = int(time.time() * 1000) - APART_MS * pages - 10_000
    for topic, user, message in sorted_by_time(like, decided, pages, begin_ms):
        _produce(producer, topic, encode(TOPICS[topic], message), user)
        count += topic != DECISIONS
    producer.flush(120)
    return count


def sorted_by_time(like: Sequence[Served], decided: Sequence[Decision], pages: int, begin_ms: int) -> Iterator[Sent]:
    """Each page's events come once pages of their time do."""
    later: dict[int, list[Sent]] = {}
    last = pages + (_LOOK_AFTER_MS + _CLICK_AFTER_MS) // APART_MS + 1
    for n in range(last):
        at_ms = begin_ms + APART_MS * n
        if n < pages:
            user, name = f"waiting-{n * 7919 % USERS}", f"page-{n}"
            page, choice = like[n % len(like)], decided[n % len(decided)]
            yield (
                SERVED,
                user,
                msgspec.structs.replace(page, response_id=name, request_id=name, user=user, event_ms=at_ms),
            )
            yield DECISIONS, user, msgspec.structs.replace(choice, response_id=name, user=user, event_ms=at_ms)
            for place, item in enumerate(page.items[:LOOKED_AT]):
                shown = Impression(
                    event_id=f"{name}-{place}", user=user, response_id=name, item=item.item, position=place,
                    event_ms=at_ms + _LOOK_AFTER_MS,
                )  # fmt: skip
                later.setdefault(n + _LOOK_AFTER_MS // APART_MS, []).append((IMPRESSIONS, user, shown))
            if n % CLICK_EVERY == 0:
                clicked = Conversion(
                    event_id=f"{name}-click", user=user, kind="click", impression_id=f"{name}-0",
                    event_ms=at_ms + _CLICK_AFTER_MS,
                )  # fmt: skip
                later.setdefault(n + _CLICK_AFTER_MS // APART_MS, []).append((CONVERSIONS, user, clicked))
        yield from later.pop(n, ())


def _produce(producer: Producer, topic: str, value: bytes, user: str) -> None:
    while True:
        try:
            producer.produce(topic, value, user)
            break
        except BufferError:
            producer.poll(0.1)
    producer.poll(0)
