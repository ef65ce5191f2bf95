"""Measuring freshness on a running system: its topics → the meter."""

import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass

from ranker.updates.record import MalformedRecord, UpdateHeader, peek_header
from streams.errors import Refused
from streams.freshness.meter import Fresh, FreshnessMeter
from streams.kafka.connection import Kafka
from streams.kafka.tail import Tail
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import RankingResponse, TrainingExample
from streams.wire.record import Record
from streams.wire.topics import EXAMPLES, RESPONSES, TOPICS, UPDATES

Followed = RankingResponse | TrainingExample | UpdateHeader
FOLLOWED = (RESPONSES, EXAMPLES, UPDATES)


def feed(meter: FreshnessMeter, record: Record, tier: str | None = None) -> Followed | None:
    """Feeds a record of FOLLOWED (of responses only those of `tier`, if one is named), and returns what it holds.

    None for what says nothing of freshness by itself: an epoch's opening, all but the last part of an update, a record
    that does not decode.
    """
    if record.topic == UPDATES:
        return _feed_update(meter, record)
    try:
        message: RankingResponse | TrainingExample = decode(
            TOPICS[record.topic], record.value, record.header(CONTENT_TYPE)
        )
    except Refused:
        return None
    if isinstance(message, TrainingExample):
        meter.example(
            record.partition,
            record.offset,
            example_id=message.example_id,
            broker_ms=record.timestamp_ms,
            trigger_ms=message.trigger_ms,
            kind=message.kind,
            label=message.label,
            by_window=message.by_window,
        )
    elif message.status == "ok" and message.model is not None and tier in (None, message.tier):
        model = message.model
        meter.response(message.replica, model.epoch, model.number, broker_ms=record.timestamp_ms)
    return message


def _feed_update(meter: FreshnessMeter, record: Record) -> UpdateHeader | None:
    try:
        header = peek_header(record.value or b"")
    except MalformedRecord:
        return None
    if not isinstance(header, UpdateHeader) or header.part + 1 < header.parts:
        return None
    meter.update(
        header.epoch,
        header.number,
        {int(partition): offset for partition, offset in header.offsets.items()},
        begun_ms=header.begun_ms or header.created_ms,
        created_ms=header.created_ms,
        broker_ms=record.timestamp_ms,
    )
    return header


@dataclass(slots=True)
class Watched:
    """What `measure` saw. by_tier: events that reached what is served, by any answer (None) and by each tier's."""

    by_tier: dict[str | None, list[Fresh]]
    records: Counter[str]
    """By topic."""

    def what_is_missing(self) -> str:
        """Where no event reached what is served: why, as far as the topics tell."""
        if not self.records[EXAMPLES]:
            return "no example came: does anybody send events (`tiderank simulate` does), and is ingest well?"
        if not self.records[UPDATES]:
            return f"{self.records[EXAMPLES]} examples came and no update of the weights: is train well?"
        if not self.records[RESPONSES]:
            return f"{self.records[UPDATES]} updates came and no response: does anybody ask, and is rank well?"
        return "examples, updates and responses came, and no response yet by weights that know an example: watch longer"


def measure(kafka: Kafka, seconds: float) -> Watched:
    """What happens within the next `seconds`, or until Ctrl-C. Raises StartError where the topics are missing."""
    meters: dict[str | None, FreshnessMeter] = {None: FreshnessMeter()}
    settled: defaultdict[str | None, list[Fresh]] = defaultdict(list)
    records: Counter[str] = Counter()
    tail = Tail(kafka, FOLLOWED)
    try:
        deadline = time.monotonic() + seconds
        with suppress(KeyboardInterrupt):
            while (left := deadline - time.monotonic()) > 0:
                for record in tail.poll(timeout_s=min(left, 0.2)):
                    records[record.topic] += 1
                    message = feed(meters[None], record)
                    if isinstance(message, RankingResponse) and message.tier is not None:
                        meters.setdefault(message.tier, FreshnessMeter())
                    for tier in meters.keys() - {None}:
                        feed(meters[tier], record, tier)
                for tier, meter in meters.items():
                    settled[tier] += meter.settle()
        return Watched({tier: settled[tier] + meter.settle(grace_ms=0) for tier, meter in meters.items()}, records)
    finally:
        tail.close()
