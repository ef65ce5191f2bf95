"""The codec: every message both ways, what is refused, and how messages evolve."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from streams.errors import Refused
from streams.wire import messages as m
from streams.wire.codec import array_twin, decode, encode
from streams.wire.headers import JSON, MSGPACK
from streams.wire.topics import DECISIONS, EXAMPLES, IMPRESSIONS, REQUESTS, RESPONSES, SERVED, TOPICS, Topic

REQUEST = m.RankingRequest(
    request_id="r1",
    user="u1",
    candidates=[m.Candidate(item="i1", features={"cat": "a", "age": 3.5, "tags": ["x", "y"]}, bid=0.25)],
    event_ms=1_700_000_000_000,
)
RESPONSE = m.RankingResponse(
    response_id="p1",
    request_id="r1",
    status="ok",
    items=[m.RankedItem(item="i1", pctr=0.25, pcvr=0.5, value=1.5)],
    model=m.ModelVersion(epoch=1, number=7, digest="d"),
    timings=m.Timings(score=1.25),
)
EXAMPLE = m.TrainingExample(
    example_id="click:e1",
    kind="click",
    label=1.0,
    value=0.0,
    response_id="p1",
    user="u1",
    item="i1",
    position=2,
    surface="feed",
    event_ms=5,
    log=m.LogRef(generation=2**62, count=9),
    features={"a": "b"},
    context={},
    item_features={"n": 1.0},
    tier="light",
    pctr=0.5,
    pcvr=0.25,
    model=m.ModelVersion(epoch=1, number=2),
    trigger_ms=6,
    shown_ms=4,
)
PUBLIC = [(REQUESTS, REQUEST), (RESPONSES, RESPONSE)]
SAMPLES = [
    *((name, message, form) for name, message in PUBLIC for form in (None, JSON, MSGPACK)),
    *((EXAMPLES, EXAMPLE, form) for form in (None, MSGPACK)),
]


@pytest.mark.parametrize(("name", "message", "content_type"), SAMPLES, ids=[f"{s[0]} {s[2]}" for s in SAMPLES])
def test_round_trip(name: str, message: Struct, content_type: str | None) -> None:
    topic = TOPICS[name]
    assert decode(topic, encode(topic, message, content_type), content_type) == message


def test_array_twin_has_the_fields_in_order_and_no_names() -> None:
    values = msgspec.msgpack.decode(encode(TOPICS[REQUESTS], REQUEST, MSGPACK))
    assert values[:2] == ["r1", "u1"]
    assert values[2][0][0] == "i1"
    names = [field.name for field in msgspec.structs.fields(array_twin(m.RankingRequest))]
    assert names == [field.name for field in msgspec.structs.fields(m.RankingRequest)]


def request_json(**changes: object) -> bytes:
    return json.dumps({"request_id": "r", "user": "u", "candidates": [{"item": "i"}]} | changes).encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "without a value"),
        (b"", "truncated"),
        (b"hello", "malformed"),
        (b'{"request_id":"r"', "truncated"),
        (b'{"request_id":"r\xff","user":"u","candidates":[]}', "utf-8"),
        (b"[" * 50_000, "object"),
        (b'{"request_id":"r","user":"u","candidates":' + b"[" * 100_000, r"array|object|recursion"),
        (request_json(user=7), r"\$\.user"),
        (request_json(user=""), r"\$\.user"),
        (request_json(user="u" * 129), r"\$\.user"),
        (request_json(candidates="i"), r"\$\.candidates"),
        (request_json(candidates=[{"item": "i"}] * (m.MAX_CANDIDATES + 1)), r"\$\.candidates"),
        (request_json(candidates=[{"item": "i", "bid": -1}]), "bid"),
        (request_json(candidates=[{"item": "i", "bid": float("nan")}]), "malformed"),
        (request_json(features={"x": 1e300}), r"<= 1000000000000"),
        (request_json(features={str(n): "v" for n in range(65)}), r"\$\.features"),
        (request_json(features={"x": ["v"] * 65}), "length"),
        (request_json(top_k=0), "top_k"),
        (request_json(event_ms=-1), "event_ms"),
        (request_json(event_ms=2**63), "event_ms"),
        (b" " * 1_000_001, "at most 1000000 bytes"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        decode(TOPICS[REQUESTS], value)


@pytest.mark.parametrize(
    ("name", "values", "place"),
    [
        (REQUESTS, ["r", "u", [["i"], ["j", {}, -1.0]]], "$.candidates[1].bid"),
        (REQUESTS, ["r", "u", [["i", {"a": ["x", 3]}]]], "$.candidates[0].features[...][1]"),
        (REQUESTS, ["r", "u", [], {"": 1}], "`key` in `$.features"),
        (REQUESTS, ["r", "u", [], {}, {}, "s", 3, 1000], "$.top_k"),
        (EXAMPLES, ["e", "$[99]", *[0] * 17], "Invalid enum value '$[99]' - at `$.kind"),
        (SERVED, ["p", "r", "u", "s", 0, [-1], *[0] * 6], "$.log.generation"),
        (SERVED, ["p", "r", "u", "s", 0, [], {}, {}, [], "x", "y", {"epoch": -1}], "$.model.epoch"),
    ],
)
def test_refusals_of_arrays_name_the_field(name: str, values: list[object], place: str) -> None:
    with pytest.raises(Refused) as caught:
        decode(TOPICS[name], msgspec.msgpack.encode(values), MSGPACK)
    assert str(caught.value).endswith(f"{place}`")


def test_nan_is_refused_in_msgpack_too() -> None:
    value = msgspec.msgpack.encode(["r", "u", [["i", {"x": float("nan")}]]])
    with pytest.raises(Refused):
        decode(TOPICS[REQUESTS], value, MSGPACK)


def test_internal_topics_have_one_form() -> None:
    """What is kept of a served record is read again later, without its headers."""
    with pytest.raises(Refused, match=r"content-type of training\.examples must be application/msgpack, got .*json"):
        decode(TOPICS[EXAMPLES], b"[]", JSON)


def test_unknown_content_type_is_refused() -> None:
    with pytest.raises(Refused, match="text/plain"):
        decode(TOPICS[REQUESTS], request_json(), "text/plain")


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_decode_or_be_refused(value: bytes) -> None:
    for name in (REQUESTS, SERVED, IMPRESSIONS, EXAMPLES, DECISIONS):
        for content_type in (None, JSON, MSGPACK):
            with contextlib.suppress(Refused):
                decode(TOPICS[name], value, content_type)


class OldRequest(Struct, frozen=True, kw_only=True):
    """RankingRequest as an older version knew it."""

    request_id: m.Id
    user: m.Id
    candidates: list[m.Candidate]


class NewServedItem(Struct, frozen=True, kw_only=True, array_like=True):
    """ServedItem as a later version may extend it: at the end, with a default."""

    item: m.Id
    features: m.Features = {}
    bid: m.Money = 1.0
    pctr: m.Probability = 0.0
    pcvr: m.Probability = 0.0
    drawn: m.Probability | None = None
    creative: str = ""


def topic_of(struct: type[Struct], encoding: str) -> Topic:
    return Topic(name="test", message=struct, encoding=encoding)  # type: ignore[arg-type]


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_old_writer_new_reader_and_back(content_type: str) -> None:
    old = OldRequest(request_id="r", user="u", candidates=[m.Candidate(item="i")])
    read = decode(TOPICS[REQUESTS], encode(topic_of(OldRequest, "json"), old, content_type), content_type)
    assert read == m.RankingRequest(request_id="r", user="u", candidates=[m.Candidate(item="i")])
    back = decode(topic_of(OldRequest, "json"), encode(TOPICS[REQUESTS], REQUEST, content_type), content_type)
    assert (back.request_id, back.candidates) == ("r1", REQUEST.candidates)


def test_internal_arrays_evolve_at_the_end() -> None:
    new, old = topic_of(NewServedItem, "msgpack"), topic_of(m.ServedItem, "msgpack")
    assert decode(old, encode(new, NewServedItem(item="i", creative="c"))) == m.ServedItem(item="i")
    assert decode(new, encode(old, m.ServedItem(item="i", bid=2.0))) == NewServedItem(item="i", bid=2.0)


def test_stored_bytes_of_an_example_never_change() -> None:
    stored = bytes.fromhex(
        "dc0018a8636c69636b3a6531a5636c69636bcb3ff0000000000000cb0000000000000000a27031a27531a2693102a4666565640592"
        "cf40000000000000000981a161a1628081a16ecb3ff0000000000000a56c69676874cb3fe0000000000000cb3fd000000000000083"
        "a565706f636801a66e756d62657202a6646967657374a006c200c2c204"
    )
    assert encode(TOPICS[EXAMPLES], EXAMPLE) == stored
    assert decode(TOPICS[EXAMPLES], stored) == EXAMPLE
    before_shown = b"\xdc\x00\x17" + stored[3:-1]
    before_provisional = b"\xdc\x00\x15" + stored[3:-3]
    for earlier in (before_shown, before_provisional):
        assert decode(TOPICS[EXAMPLES], earlier) == msgspec.structs.replace(EXAMPLE, shown_ms=0)
