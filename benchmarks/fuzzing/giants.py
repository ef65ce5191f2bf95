"""Records as large as a topic takes: what must still fit into a dead letter, or into what is made of it."""

import random
from collections.abc import Iterator

import msgspec

from benchmarks.fuzzing.mutations import Fuzzed
from benchmarks.fuzzing.samples import Samples
from streams.wire.codec import encode
from streams.wire.headers import CONTENT_TYPE, MSGPACK
from streams.wire.topics import DECISIONS, OUTCOMES, TOPICS

_FRAMING = 1_500
"""Bytes that a record may be longer than its message: the broker's limit leaves room for headers."""


def giants(topic: str, samples: Samples) -> Iterator[Fuzzed]:
    """Noise beyond the message's own limit; a message padded to it; one that is longer in its other encoding."""
    rng, limit = random.Random(topic), TOPICS[topic].max_bytes
    message = samples.samplers()[topic](rng)
    value = encode(TOPICS[topic], message)
    yield Fuzzed(topic, "giant", rng.randbytes(limit + _FRAMING - 500), b"giant", (("note", b"x" * 400),))
    yield Fuzzed(topic, "giant", value + b" " * (limit - len(value)), b"giant", ())
    if topic in (DECISIONS, OUTCOMES):
        yield Fuzzed(topic, "giant", _growing(samples, limit), b"giant", ((CONTENT_TYPE, MSGPACK.encode()),))


def _growing(samples: Samples, limit: int) -> bytes:
    """A decision whose plans have names that take six times the bytes in JSON."""
    decision = samples.decision(random.Random(0))
    names = {"\x01" * 120 + f"{n:08d}": 0.0 for n in range(limit // 150)}
    grown = msgspec.structs.replace(decision, response_id="fuzz-giant", probabilities=decision.probabilities | names)
    return encode(TOPICS[DECISIONS], grown, MSGPACK)
