"""A battery of bad messages: each gets exactly what the wire's contract says, and traffic goes on."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from streams.client import RankingClient
from streams.errors import DeliveryFailed
from streams.kafka.connection import Kafka
from streams.kafka.scan import read_topic
from streams.operations import dlq
from streams.wire.codec import decode
from streams.wire.messages import Candidate, Conversion, Impression, RankingRequest, RankingResponse
from streams.wire.topics import CONVERSIONS, EXAMPLES, IMPRESSIONS, REQUESTS, RESPONSES, TOPICS, Topic
from tests.e2e.running import House, check_alive, running

pytestmark = pytest.mark.e2e

FAR_MS = 4_070_908_800_000  # 2099
NOW_S = int(time.time())
LONG = {"deadline-ms": "60000"}
NOWHERE = "ranking.responses.x"
NARROW = "ranking.responses.narrow"
"""A reply topic that takes no response."""
WIDE: dict[str, str | float | list[str]] = {f"feature-{number}": ["w" * 250] * 55 for number in range(60)}
"""800 kB of features."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("bad"), ["rank", "ingest", "train"]) as up:
        up.kafka.create_topics([Topic(name=NARROW, message=RankingResponse, encoding="json", max_bytes=-1_900)])
        yield up
        check_alive(up)


@dataclass(frozen=True)
class Bad:
    """A record, and what must come of it: a status and reason, or no response (None), and a dead letter or none."""

    name: str
    value: bytes | None
    status: str | None
    reason: str = ""
    letter: bool = True
    topic: str = REQUESTS
    headers: dict[str, Any] = field(default_factory=lambda: dict(LONG))


def request(name: str, **changes: object) -> bytes:
    return json.dumps({"request_id": name, "user": "u", "candidates": [{"item": "i"}]} | changes).encode()


def impression(name: str, event_ms: int) -> bytes:
    shown = Impression(event_id=name, user="u", response_id="r", item="i", position=0, event_ms=event_ms)
    return msgspec.json.encode(shown)


def click(name: str, event_ms: int) -> bytes:
    return msgspec.json.encode(Conversion(event_id=name, user="u", kind="click", item="i", event_ms=event_ms))


BATTERY = [
    Bad("not-json", b"hello", None, "malformed"),
    Bad("nothing", b"", None, "truncated"),
    Bad("tombstone", None, None, "without a value"),
    Bad("cut", request("cut")[:-5], None, "truncated"),
    Bad("not-utf8", b'{"request_id":"not-utf8","user":"\xff","candidates":[]}', None, "utf-8"),
    Bad("wrong-type", request("wrong-type", candidates="many"), "error", "$.candidates"),
    Bad("no-user", b'{"request_id":"no-user","candidates":[]}', "error", "user"),
    Bad("nan", b'{"request_id":"nan","user":"u","candidates":[{"item":"i","bid":NaN}]}', None, "malformed"),
    Bad("infinite", b'{"request_id":"infinite","user":"u","candidates":[{"item":"i","bid":1e999}]}', "error", "range"),
    Bad("huge-number", request("huge-number", features={"x": 1e300}), "error", "$.features"),
    Bad("negative-bid", request("negative-bid", candidates=[{"item": "i", "bid": -1}]), "error", "bid"),
    Bad("2001", request("2001", candidates=[{"item": "i"}] * 2001), "error", "length <= 2000"),
    Bad("deep", b'{"request_id":"deep","user":"u","candidates":' + b"[" * 100_000, None, ""),
    Bad("long-id", request("long-id", user="u" * 129), "error", "$.user"),
    Bad("future", request("future", event_ms=FAR_MS), "error", "ahead of the broker's"),
    Bad("seconds", request("seconds", event_ms=NOW_S), "error", "looks like seconds"),
    Bad("microseconds", request("microseconds", event_ms=NOW_S * 10**6), "error", "looks like microseconds"),
    Bad("zero", request("zero", event_ms=0), "error", "min_event_ms"),
    Bad("negative", request("negative", event_ms=-NOW_S), "error", "event_ms"),
    Bad("bad-deadline", request("bad-deadline"), "error", "deadline-ms must be", headers={"deadline-ms": "soon"}),
    Bad("foreign-reply", request("foreign-reply"), "error", "must begin with", headers={"reply-topic": "dead.letters"}),
    Bad("no-such-reply", request("no-such-reply"), "error", "must exist", headers={"reply-topic": NOWHERE}),
    Bad("narrow-reply", request("narrow-reply"), "error", "cannot be sent to", headers=LONG | {"reply-topic": NARROW}),
    Bad("number-as-user", request("number-as-user", user=7), "error", "$.user"),
    Bad("endless-user", request("endless-user", user="u" * 10_000), "error", "$.user"),
    Bad("wide-twins", request("wide-twins", top_k=200, candidates=[{"item": "i", "features": WIDE}, *[{"item": "i"}] *
        199]), "ok", letter=False),
    Bad("binary-header", request("binary-header"), "ok", letter=False, headers=LONG | {"note": b"\xff\xfe"}),
    Bad("strange-type", request("strange-type"), "error", "content-type", headers=LONG | {"content-type": "text/csv"}),
    Bad("unknown-user", request("unknown-user", user="nobody-ever"), "ok", letter=False),
    Bad("no-candidates", request("no-candidates", candidates=[]), "empty", letter=False),
    Bad("expired", request("expired"), "fallback", "expired", letter=False, headers={"deadline-ms": "1"}),
    Bad("odd-slots", request("odd-slots", features={"segment": 3, "device": ["a"]}, candidates=[
        {"item": "i", "features": {"category": ["a", "b"], "price": "cheap", "unheard-of": 1}}]), "ok", letter=False),
    Bad("twin-items", request("twin-items", candidates=[{"item": "i"}] * 3), "ok", letter=False),
    Bad("impression-of-what", b"{}", None, "event_id", topic=IMPRESSIONS, headers={}),
    Bad("impression-2099", json.dumps({"event_id": "e99", "user": "u", "response_id": "r", "item": "i", "position": 0,
        "event_ms": FAR_MS}).encode(), None, "ahead of the broker's", topic=IMPRESSIONS, headers={}),
    Bad("shown-in-seconds", impression("shown-in-seconds", NOW_S), None, "looks like seconds", topic=IMPRESSIONS),
    Bad("shown-in-ns", impression("ns", NOW_S * 10**9), None, "looks like nanoseconds", topic=IMPRESSIONS),
    Bad("clicked-in-seconds", click("clicked-in-seconds", NOW_S), None, "looks like seconds", topic=CONVERSIONS),
    Bad("clicked-in-us", click("us", NOW_S * 10**6), None, "looks like microseconds", topic=CONVERSIONS),
    Bad("clicked-in-1970", click("clicked-in-1970", 0), None, "min_event_ms", topic=CONVERSIONS),
    Bad("impression-at-999", json.dumps({"event_id": "e9", "user": "u", "response_id": "r", "item": "i",
        "position": 999, "event_ms": 1}).encode(), None, "position", topic=IMPRESSIONS, headers={}),
    Bad("conversion-soup", b"\x00\x01\x02", None, "malformed", topic=CONVERSIONS, headers={}),
]  # fmt: skip
AFTER_EACH = 3
"""Good requests sent between two bad ones."""


@pytest.fixture(scope="module")
def outcome(house: House) -> tuple[dict[str, RankingResponse], list[dlq.Letter]]:
    """Sends the battery among good requests; returns responses by request id and the dead letters."""
    producer = house.kafka.producer()
    for place, bad in enumerate(BATTERY):
        producer.produce(bad.topic, bad.value, bad.name, headers=list(bad.headers.items()))
        for number in range(AFTER_EACH):
            producer.produce(REQUESTS, request(f"good-{place}-{number}"), "u", headers=list(LONG.items()))
        producer.flush(10.0)
    addressed = {bad.name for bad in BATTERY if bad.status is not None}
    good = {f"good-{place}-{number}" for place in range(len(BATTERY)) for number in range(AFTER_EACH)}
    responses = await_responses(house.kafka, addressed | good)
    letters = dlq.list_letters(house.kafka)
    return responses, letters


def await_responses(kafka: Kafka, wanted: set[str], timeout_s: float = 60.0) -> dict[str, RankingResponse]:
    deadline = time.monotonic() + timeout_s
    while True:
        found = [decode(TOPICS[RESPONSES], record.value) for record in read_topic(kafka, RESPONSES)]
        responses = {response.request_id: response for response in found}
        if wanted <= responses.keys():
            return responses
        assert time.monotonic() < deadline, f"unanswered: {sorted(wanted - responses.keys())}"
        time.sleep(0.3)


@pytest.mark.parametrize("bad", BATTERY, ids=lambda bad: bad.name)
def test_a_bad_message_gets_what_the_contract_says(
    bad: Bad, outcome: tuple[dict[str, RankingResponse], list[dlq.Letter]]
) -> None:
    responses, letters = outcome
    response = responses.get(bad.name)
    mine = [letter for letter in letters if letter.record.key == bad.name.encode()]
    if bad.status is None:
        assert response is None
    else:
        assert response is not None
        assert response.status == bad.status
        assert bad.reason in (response.reason or "")
    if not bad.letter:
        assert mine == []
        return
    (letter,) = mine
    assert letter.record.value == (bad.value or b"")
    assert bad.reason in str(letter.summary()["reason"])
    assert letter.topic == bad.topic
    for name, value in bad.headers.items():
        expected = value if isinstance(value, bytes) else str(value).encode()
        assert (f"original-{name}", expected) in letter.record.headers


def test_throughput_goes_on(outcome: tuple[dict[str, RankingResponse], list[dlq.Letter]]) -> None:
    responses, _ = outcome
    good = [response for name, response in responses.items() if name.startswith("good-")]
    assert len(good) == AFTER_EACH * len(BATTERY)
    assert {response.status for response in good} == {"ok"}


def test_a_sender_with_a_fast_clock_closes_nobodys_windows(house: House) -> None:
    """Its event is within the tolerance, and far beyond the click window."""
    with RankingClient(house.kafka) as client:
        request = RankingRequest(request_id="shown", user="shown", candidates=[Candidate(item="i")])
        response = client.rank(request, timeout_s=30.0, deadline_ms=30_000)
        now_ms = int(time.time() * 1000)
        client.send_impression(
            Impression(
                event_id="e-shown",
                user="shown",
                response_id=response.response_id,
                item="i",
                position=0,
                event_ms=now_ms,
            )
        )
        client.send_conversion(Conversion(event_id="e-fast", user="fast", kind="search", event_ms=now_ms + 50_000))
        client.flush()
        time.sleep(0.5)
        client.send_conversion(
            Conversion(event_id="e-click", user="shown", kind="click", impression_id="e-shown", event_ms=now_ms + 500)
        )
        client.flush()
    deadline = time.monotonic() + 30
    labels: list[float] = []
    while not labels and time.monotonic() < deadline:
        time.sleep(0.2)
        examples = [decode(TOPICS[EXAMPLES], record.value) for record in read_topic(house.kafka, EXAMPLES)]
        labels = [example.label for example in examples if example.user == "shown" and example.kind == "click"]
    assert labels == [1.0]


def test_a_request_that_the_broker_does_not_take_is_told_at_once(house: House) -> None:
    candidates = [Candidate(item="i", features=WIDE), Candidate(item="j", features=WIDE)]
    with (
        RankingClient(house.kafka) as client,
        pytest.raises(DeliveryFailed, match=r"did not take request too-large: .*too large"),
    ):
        client.rank(RankingRequest(request_id="too-large", user="u", candidates=candidates), timeout_s=60.0)


def test_fallbacks_keep_the_order_and_claim_nothing(house: House) -> None:
    candidates = [Candidate(item=name, bid=number) for number, name in enumerate("zmabc")]
    with RankingClient(house.kafka) as client:
        response = client.rank(
            RankingRequest(request_id="late", user="u", candidates=candidates), timeout_s=30.0, deadline_ms=1
        )
    assert response.status == "fallback"
    assert [item.item for item in response.items] == list("zmabc")
    assert all(item.pctr is None and item.value is None for item in response.items)


def test_a_letter_whose_cause_was_mended_can_be_replayed(
    house: House, outcome: tuple[dict[str, RankingResponse], list[dlq.Letter]]
) -> None:
    """A reply topic that did not exist: make it, replay the letter, and the answer comes there."""
    letter = next(letter for letter in outcome[1] if letter.record.key == b"no-such-reply")
    house.kafka.create_topics([Topic(name=NOWHERE, message=RankingResponse, encoding="json")])
    time.sleep(2.5)  # the worker asks for topic names at most every 2 s
    lines = list(dlq.replay(house.kafka, {letter.number}))
    assert lines == [f"{letter.number}: sent to {REQUESTS}"]
    deadline = time.monotonic() + 30
    answers: list[RankingResponse] = []
    while not answers and time.monotonic() < deadline:
        time.sleep(0.2)
        answers = [decode(TOPICS[RESPONSES], record.value) for record in read_topic(house.kafka, NOWHERE)]
    assert [answer.request_id for answer in answers] == ["no-such-reply"]


def test_replaying_all_letters_again_sends_only_what_was_refused_since(
    house: House, outcome: tuple[dict[str, RankingResponse], list[dlq.Letter]]
) -> None:
    sent = list(dlq.replay(house.kafka, None))
    assert len(sent) >= len(outcome[1])
    deadline = time.monotonic() + 30
    refused_again = len([bad for bad in BATTERY if bad.letter]) - 1  # but the one whose reply topic is there now
    while len(dlq.list_letters(house.kafka)) < len(sent) + refused_again and time.monotonic() < deadline:
        time.sleep(0.2)
    again = list(dlq.replay(house.kafka, None))
    assert 0 < len(again) <= len(sent)
    assert {line.split(":")[0] for line in again}.isdisjoint(line.split(":")[0] for line in sent)
