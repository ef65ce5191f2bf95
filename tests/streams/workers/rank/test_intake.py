"""The intake: what becomes work, what is refused, and who hears of it."""

import json

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.wire.event_time import TimeBounds
from streams.wire.headers import CONTENT_TYPE, MSGPACK
from streams.wire.record import Record
from streams.wire.topics import REQUESTS, RESPONSES
from streams.workers.rank.intake import Intake, Refusal, TopicNames, Work

NOW_MS = 1_800_000_000_000


def record(value: bytes, **headers: str) -> Record:
    pairs = tuple((name.replace("_", "-"), text.encode()) for name, text in headers.items())
    return Record(REQUESTS, 2, 7, NOW_MS, b"u", value, pairs)


def request(**changes: object) -> bytes:
    return json.dumps({"request_id": "r", "user": "u", "candidates": [{"item": "i"}]} | changes).encode()


def take(rec: Record) -> Work | Refusal:
    intake = Intake(
        topic_exists=lambda name: name == "ranking.responses.mine",
        reply_prefix="ranking.responses",
        default_deadline_ms=2000,
        times=TimeBounds(min_ms=5, max_future_ms=60_000),
    )
    return intake.take(rec)


def work(rec: Record) -> Work:
    taken = take(rec)
    assert isinstance(taken, Work), taken
    return taken


def refusal(rec: Record) -> Refusal:
    taken = take(rec)
    assert isinstance(taken, Refusal), taken
    return taken


def test_defaults_come_from_the_record() -> None:
    taken = work(record(request()))
    assert (taken.event_ms, taken.deadline_ms, taken.reply_topic) == (NOW_MS, NOW_MS + 2000, RESPONSES)
    assert not taken.expired(NOW_MS + 2000)
    assert taken.expired(NOW_MS + 2001)


def test_headers_are_heeded() -> None:
    taken = work(record(request(event_ms=5), deadline_ms="150", reply_topic="ranking.responses.mine"))
    assert (taken.event_ms, taken.deadline_ms, taken.reply_topic) == (5, NOW_MS + 150, "ranking.responses.mine")


@pytest.mark.parametrize("text", ["", "soon", "-5", "0", "1e3", "９", "3600001", "1" * 30])
def test_a_deadline_is_whole_milliseconds(text: str) -> None:
    assert "deadline-ms must be" in refusal(record(request(), deadline_ms=text)).reason


@pytest.mark.parametrize(
    ("name", "why"), [("dead.letters", "must begin with"), ("ranking.responses.gone", "must exist")]
)
def test_a_reply_topic_that_cannot_be_used_is_refused_on_the_default_one(name: str, why: str) -> None:
    refused = refusal(record(request(), reply_topic=name))
    assert why in refused.reason
    assert (refused.reply_topic, refused.request_id, refused.user) == (RESPONSES, "r", "u")


def test_the_far_future_is_refused() -> None:
    assert work(record(request(event_ms=NOW_MS + 60_000)))
    assert "ahead of the broker's" in refusal(record(request(event_ms=NOW_MS + 60_001))).reason


def test_a_refusal_is_addressed_where_the_request_held_enough() -> None:
    assert refusal(record(request(candidates="many"), reply_topic="ranking.responses.mine")).request_id == "r"
    assert refusal(record(request(candidates="many"), reply_topic="ranking.responses.mine")).reply_topic.endswith(
        "mine"
    )
    assert refusal(record(b"not json")).request_id is None
    assert refusal(record(b'{"user":"u"}')).request_id is None
    packed = refusal(record(msgspec.msgpack.encode(["r", "u", "many"]), content_type=MSGPACK))
    assert (packed.request_id, packed.user, packed.content_type) == ("r", "u", MSGPACK)


@pytest.mark.parametrize("user", [42, None, "u" * 257, ["u"], {"id": "u"}])
def test_a_refusal_is_addressed_whatever_was_sent_as_the_user(user: object) -> None:
    """The sender of a numeric user id must not wait in vain for an answer that names the field."""
    for refused in (
        refusal(record(request(user=user))),
        refusal(record(msgspec.msgpack.encode(["r", user, []]), content_type=MSGPACK)),
    ):
        assert (refused.request_id, refused.user) == ("r", "")


def test_content_type_comes_back() -> None:
    taken = work(record(msgspec.msgpack.encode(["r", "u", [["i"]]]), content_type=MSGPACK))
    assert taken.content_type == MSGPACK
    assert taken.record.header(CONTENT_TYPE) == MSGPACK


def test_topic_names_are_asked_for_seldom() -> None:
    asked: list[int] = []

    def list_names() -> set[str]:
        asked.append(1)
        return {"a"}

    exists = TopicNames(list_names, every_s=1000)
    assert exists("a")
    assert not exists("b")
    assert not exists("c")
    assert len(asked) == 1


def test_a_topic_that_was_deleted_is_noticed() -> None:
    there = {"a"}
    exists = TopicNames(lambda: set(there), every_s=0.0)
    assert exists("a")
    there.clear()
    assert not exists("a")


def test_topic_names_stand_while_the_broker_does_not_answer() -> None:
    down = False

    def list_names() -> set[str]:
        if down:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return {"a"}

    exists = TopicNames(list_names, every_s=0.0)
    assert exists("a")
    down = True
    assert exists("a")
    assert not exists("b")
