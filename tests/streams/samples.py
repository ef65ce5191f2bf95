"""A training example as the wire would give it, of which a test says what matters to it."""

from typing import Any

from streams.wire.codec import decode, encode
from streams.wire.messages import LogRef, ModelVersion, TrainingExample
from streams.wire.topics import EXAMPLES, TOPICS


def example(kind: str = "click", item: str = "a", **changes: Any) -> TrainingExample:
    fields: dict[str, Any] = {
        "example_id": f"{kind}:{item}",
        "kind": kind,
        "label": 0.0,
        "value": 0.0,
        "response_id": "r",
        "user": "u",
        "item": item,
        "position": 0,
        "surface": "feed",
        "event_ms": 1,
        "log": LogRef(),
        "features": {},
        "context": {},
        "item_features": {"of": item},
        "tier": "light",
        "pctr": 0.1,
        "pcvr": 0.2,
        "model": ModelVersion(epoch=1, number=1),
        "trigger_ms": 0,
    }
    made = TrainingExample(**(fields | changes))
    return decode(TOPICS[EXAMPLES], encode(TOPICS[EXAMPLES], made))  # type: ignore[no-any-return]
