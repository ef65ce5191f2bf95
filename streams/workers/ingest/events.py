"""Records of served, impressions and conversions → the facts that the join takes in, and labels → what it gives out."""

from collections.abc import Collection

from feature_store.events import LogEvent, action_code, encode_event, surface_code
from feature_store.facts import ActionFact, Fact, ImpressionFact, Label, Role, ServedFact, example_id
from ranker.inputs.hashing import hash64
from streams.config.recipe import EventKinds
from streams.wire.codec import decode
from streams.wire.event_time import TimeBounds
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import Conversion, Impression, Outcome, Served, ServedItem, TrainingExample
from streams.wire.record import Record
from streams.wire.topics import IMPRESSIONS, SERVED, TOPICS


def to_fact(record: Record, kinds: EventKinds, times: TimeBounds) -> Fact:
    """Raises Refused for what does not decode, or whose time cannot be true."""
    message = decode(TOPICS[record.topic], record.value, record.header(CONTENT_TYPE))
    times.check(message.event_ms, record)
    if record.topic == SERVED:
        return _served_fact(message, record)
    if record.topic == IMPRESSIONS:
        return _impression_fact(message, record)
    return _action_fact(message, record, kinds)


def _served_fact(served: Served, record: Record) -> ServedFact:
    return ServedFact(
        response_id=served.response_id,
        user=served.user,
        # No later than the broker's time: a fast clock of who asked must not make those of who shows implausible.
        event_ms=min(served.event_ms, record.timestamp_ms),
        items=tuple(item.item for item in served.items),
        blob=record.value or b"",
    )


def _impression_fact(impression: Impression, record: Record) -> ImpressionFact:
    return ImpressionFact(
        event_id=impression.event_id,
        user=impression.user,
        response_id=impression.response_id,
        item=impression.item,
        position=impression.position,
        event_ms=impression.event_ms,
        kafka_ms=record.timestamp_ms,
        record=_log_record("impression", impression.item, impression.surface, 0.0, impression.event_ms),
    )


def _action_fact(conversion: Conversion, record: Record, kinds: EventKinds) -> ActionFact:
    return ActionFact(
        event_id=conversion.event_id,
        user=conversion.user,
        kind=conversion.kind,
        role=_role(conversion.kind, kinds.clicks, kinds.conversions),
        item=conversion.item,
        impression_id=conversion.impression_id,
        value=conversion.value,
        event_ms=conversion.event_ms,
        kafka_ms=record.timestamp_ms,
        record=_log_record(
            conversion.kind, conversion.item or "", conversion.surface, conversion.value, conversion.event_ms
        ),
    )


def _role(kind: str, clicks: Collection[str], conversions: Collection[str]) -> Role:
    if kind in clicks:
        return "click"
    return "conversion" if kind in conversions else "log"


def _log_record(kind: str, item: str, surface: str, value: float, event_ms: int) -> bytes:
    return encode_event(
        LogEvent(
            time_s=event_ms // 1000,
            item=hash64(item),
            action=action_code(kind),
            surface=surface_code(surface),
            value=min(value, 65_000.0),  # the record's 16-bit float ends at 65,504
        )
    )


def to_example(label: Label) -> TrainingExample:
    """A label with what scoring saw. Its id follows from the impression's, so a second delivery has the same."""
    served: Served = decode(TOPICS[SERVED], label.blob)
    item = _served_item(served, label.item)
    return TrainingExample(
        example_id=example_id(label),
        kind=label.kind,
        label=label.label,
        value=label.value,
        response_id=served.response_id,
        user=served.user,
        item=label.item,
        position=label.position,
        surface=served.surface,
        event_ms=served.event_ms,
        log=served.log,
        features=served.features,
        context=served.context,
        item_features=item.features,
        tier=served.tier,
        pctr=item.pctr,
        pcvr=item.pcvr,
        model=served.model,
        trigger_ms=label.trigger_kafka_ms,
        by_window=label.by_window,
        label_ms=label.label_ms,
        provisional=label.provisional,
        corrects=label.corrects,
        shown_ms=label.impression_ms,
    )


def to_outcome(label: Label) -> Outcome:
    """What a positive label earned: its ad's bid for a click, its own value for a conversion."""
    served: Served = decode(TOPICS[SERVED], label.blob)
    earned = _served_item(served, label.item).bid if label.kind == "click" else label.value
    return Outcome(
        outcome_id=example_id(label),
        response_id=served.response_id,
        user=served.user,
        kind=label.kind,
        value=earned,
        event_ms=label.label_ms,
    )


def _served_item(served: Served, name: str) -> ServedItem:
    return next(item for item in served.items if item.item == name)
