"""Whose a record is, however it was encoded."""

import json

import pytest

from streams.user.records import is_of
from streams.wire.codec import encode
from streams.wire.headers import MSGPACK
from streams.wire.messages import Conversion, Decision, Impression, Reward
from streams.wire.record import Record
from streams.wire.topics import CONVERSIONS, DEAD_LETTERS, IMPRESSIONS, REWARDS, TOPICS

USER = 'Zoë "7"'
IMPRESSION = Impression(event_id="e", user=USER, response_id="r", item="i", position=0, event_ms=1)
REWARD = Reward(
    reward_id="r",
    decision=Decision(
        response_id="r",
        user=USER,
        event_ms=1,
        plan="p",
        probabilities={},
        values={},
        costs={},
        measured_ms=1,
        price=1,
        context={},
        router_number=0,
    ),
    earned=1.0,
    outcomes=0,
)


def record(topic: str, value: bytes | None, *, key: str = "another", content_type: str | None = None) -> Record:
    headers = () if content_type is None else (("content-type", content_type.encode()),)
    return Record(topic, 0, 0, 0, key.encode(), value, headers)


@pytest.mark.parametrize(
    "found",
    [
        record(IMPRESSIONS, encode(TOPICS[IMPRESSIONS], IMPRESSION)),
        record(IMPRESSIONS, json.dumps({"user": USER, "unknown": [1]}).encode()),  # escaped, and not even whole
        record(IMPRESSIONS, encode(TOPICS[IMPRESSIONS], IMPRESSION, MSGPACK), content_type=MSGPACK),
        record(REWARDS, encode(TOPICS[REWARDS], REWARD)),
        record(REWARDS, encode(TOPICS[REWARDS], REWARD, MSGPACK), content_type=MSGPACK),
        record(DEAD_LETTERS, b"soup", key=USER),
        record(CONVERSIONS, b"soup", key=USER),
        record(CONVERSIONS, None, key=USER),
    ],
    ids=["json", "escaped", "msgpack", "reward", "packed reward", "dead letter", "malformed", "tombstone"],
)
def test_a_record_is_its_user_s(found: Record) -> None:
    assert is_of(found, USER)
    assert not is_of(found, "7")
    assert not is_of(found, "another")


def test_a_user_who_is_only_mentioned_is_not_the_one() -> None:
    bought = Conversion(event_id="u", user="somebody", kind="u", event_ms=1, item="u")
    for content_type in (None, MSGPACK):
        value = encode(TOPICS[CONVERSIONS], bought, content_type)
        assert not is_of(record(CONVERSIONS, value, key="u", content_type=content_type), "u")
