"""Valid messages → odd ones: bytes damaged, fields wrong, headers and keys strange. Seeded; knows nothing of Kafka."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from streams.wire.codec import encode
from streams.wire.headers import CONTENT_TYPE, DEADLINE_MS, JSON, MSGPACK, REPLY_TOPIC
from streams.wire.topics import REQUESTS, TOPICS

Headers = tuple[tuple[str, bytes | None], ...]
Sampler = Callable[[random.Random], Struct]
"""Draws a valid message."""

HUGE = 5_000
"""Characters, elements or levels: far beyond every bound of a field, and cheap enough to be sent by the thousand."""
MAX_BYTES = 100_000
"""Bytes of a record, at most: below every broker's own limit. What is longer is cut."""
ODD_TEXTS = (
    *("", " ", "\0", "\n|:\t", "\x1b[2J", "u" * 128, "u" * 129, "é" * 128, "𝄞" * 64, "\u202e", "1e999", "null"),
    *("../../etc", "{}", "a=b:c|d", "%00", "x" * HUGE),
)
ODD_NUMBERS = (
    *(0, -1, 1, 199, 200, 2**31, 2**43, 2**43 + 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 0.5, 1.0, 1e-308, 1e12, -1e12, 1.0000001e12, 1e308, float("nan"), float("inf"), -float("inf")),
)
ODD_BYTES = (b"", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3(", b"\0" * 40, b"9" * 400, b"x" * HUGE)
ODD_HEADERS: Mapping[str, Sequence[bytes | None]] = {
    CONTENT_TYPE: (b"text/csv", JSON.encode(), MSGPACK.encode(), b"\xff", b"", None, b"application/" + b"x" * 5_000),
    DEADLINE_MS: (b"0", b"-5", b"1e3", "²".encode(), b" 7", b"9" * 400, b"3600001", b"\xff", b"", None),
    REPLY_TOPIC: (b"dead.letters", b"ranking.responses.nowhere", b"ranking.responses/../x", b"\xff", b"", b"a" * 5_000),
    "reason": (b"not a letter", b"x" * 5_000),
    "original-topic": (b"router.model",),
    "": (b"nameless", None),
}


@dataclass(frozen=True, slots=True)
class Fuzzed:
    topic: str
    kind: str
    """Which mutation made it."""
    value: bytes | None
    key: bytes | None
    headers: Headers


class Fuzzer:
    """Draws one odd record after another; the same seed gives the same records at the same `now_ms`."""

    def __init__(self, seed: int, samplers: Mapping[str, Sampler], now_ms: Callable[[], int]) -> None:
        """samplers: by topic, what a valid message of it is."""
        self._rng = random.Random(seed)
        self._samplers = samplers
        self._now_ms = now_ms

    def record(self, topic: str) -> Fuzzed:
        rng = self._rng
        message = self._samplers[topic](rng)
        content_type = rng.choice((None, None, JSON, MSGPACK))
        headers: Headers = () if content_type is None else ((CONTENT_TYPE, content_type.encode()),)
        if topic == REQUESTS:
            headers = (*headers, (DEADLINE_MS, b"60000"))
        # The internal topics take no JSON.
        value = msgspec.json.encode(message) if content_type == JSON else encode(TOPICS[topic], message, content_type)
        packed = (content_type or _own(topic)) == MSGPACK
        key: bytes | None = getattr(message, "user", "k").encode()
        kind = rng.choice(KINDS)
        match kind:
            case "tombstone":
                return Fuzzed(topic, kind, None, key, headers)
            case "key":
                return Fuzzed(topic, kind, value, rng.choice([None, *ODD_BYTES]), headers)
            case "headers":
                name = rng.choice(list(ODD_HEADERS))
                odd = tuple((name, rng.choice(ODD_HEADERS[name])) for _ in range(rng.choice([1, 1, 2, 60])))
                return Fuzzed(topic, kind, value, key, (*headers, *odd))
            case "fields":
                return Fuzzed(topic, kind, self._fields_changed(value, packed)[:MAX_BYTES], key, headers)
            case "times":
                return Fuzzed(topic, kind, self._time_changed(value, packed, message), key, headers)
            case _:
                return Fuzzed(topic, kind, _bytes_changed(rng, kind, value), key, headers)

    def _fields_changed(self, value: bytes, packed: bool) -> bytes:
        rng, tree = self._rng, _unpack(value, packed)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            tree = _tree_changed(rng, tree)
        return _pack(rng, tree, packed)

    def _time_changed(self, value: bytes, packed: bool, message: Struct) -> bytes:
        rng, now_ms = self._rng, self._now_ms()
        odd = [0, 1, 2**43, 4_070_908_800_000, now_ms - 10**10, now_ms - 10**6, now_ms + 30_000, now_ms + 10**9]
        tree, moved = _unpack(value, packed), rng.choice(odd)
        fields = msgspec.structs.fields(message)
        for place, field in enumerate(fields):
            if field.name.endswith("_ms") and (isinstance(tree, dict) or place < len(tree)):
                tree[field.name if isinstance(tree, dict) else place] = moved
        return _pack(rng, tree, packed)


KINDS = ("flip", "cut", "longer", "noise", "deep", "tombstone", "key", "headers", "times", *["fields"] * 4)


def _own(topic: str) -> str:
    return MSGPACK if TOPICS[topic].encoding == "msgpack" else JSON


def _bytes_changed(rng: random.Random, kind: str, value: bytes) -> bytes:
    match kind:
        case "flip":
            changed = bytearray(value)
            for _ in range(rng.choice([1, 1, 2, 8, 64])):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case "cut":
            return value[: rng.randrange(len(value))]
        case "longer":
            return value + rng.choice([value, b"\0", b" ", b"}", rng.randbytes(rng.randint(1, 200)), b"\xff" * HUGE])
        case "noise":
            return rng.randbytes(rng.choice([0, 1, 8, 300, HUGE]))
        case "deep":
            opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b"\x91", b""), (b"\x81\xa1a", b"")])
            depth = rng.choice([30, 500, HUGE])
            return rng.choice([b"", value[:-1] + b","]) + opening * depth + rng.choice([b"", b"1" + closing * depth])
        case _:
            raise ValueError(f"no such mutation: {kind}")


def _unpack(value: bytes, packed: bool) -> Any:
    return msgspec.msgpack.decode(value) if packed else msgspec.json.decode(value)


def _pack(rng: random.Random, tree: Any, packed: bool) -> bytes:
    try:
        # Python's own writes what is no JSON, too: NaN, Infinity, halves of surrogate pairs.
        return msgspec.msgpack.encode(tree) if packed else json.dumps(tree, default=repr).encode()
    except (msgspec.MsgspecError, OverflowError, ValueError, TypeError):
        return rng.randbytes(20)  # what no encoder writes


def _tree_changed(rng: random.Random, tree: Any) -> Any:
    """The tree with one of its places changed, gone or doubled; now and then the whole of it."""
    places = list(_places(tree))
    if not places or rng.random() < 0.02:
        return _odd(rng, tree)
    holder, name = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del holder[name]
        case 1 if isinstance(holder, list):
            holder[name:name] = [holder[name]] * rng.choice([1, 3, 300])
        case 1:
            holder[rng.choice([name + "_", "", "x" * 200, "user", "\ud800"])] = holder[name]
        case _:
            holder[name] = _odd(rng, holder[name])
    return tree


def _places(tree: Any) -> Any:
    if isinstance(tree, dict | list):
        for name in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, name
            yield from _places(tree[name])


def _odd(rng: random.Random, value: Any) -> Any:
    """Something else in its place: of its own type and odd, or of another type."""
    if isinstance(value, bool) or rng.random() < 0.4:
        return _of_any_type(rng)
    if isinstance(value, str):
        return rng.choice([*ODD_TEXTS, value + "\ud800", value[::-1]])
    if isinstance(value, int | float):
        return rng.choice([*ODD_NUMBERS, value + 1, -value, value * 1000])
    if isinstance(value, bytes):
        return _bytes_changed(rng, rng.choice(["flip", "cut", "longer", "noise"]), value or b"\0")
    return rng.choice([[], {}, [value] * 3, {f"f{n}": 1.0 for n in range(70)}, ["w"] * HUGE])


def _of_any_type(rng: random.Random) -> Any:
    odd: Any = rng.choice(
        [None, True, rng.choice(ODD_TEXTS), rng.choice(ODD_NUMBERS), [], {}, [[]], {"a": {"b": [1]}}, b"\xff\xfe"]
    )
    for _ in range(rng.choice([0, 0, 0, 1, 40])):
        odd = rng.choice([[odd], {"a": odd}])
    return odd
