"""The AsyncAPI 3 document of the topics, generated from the message structs: the contract with other systems."""

from importlib.metadata import version
from typing import Any

import msgspec

from streams.wire.headers import DEADLINE_MS, JSON, MAX_DEADLINE_MS, MSGPACK, REPLY_TOPIC
from streams.wire.topics import REQUESTS, TOPICS, Topic

REQUEST_HEADERS = {
    "type": "object",
    "properties": {
        REPLY_TOPIC: {"type": "string", "description": "Where to answer; it must exist and have an allowed prefix."},
        DEADLINE_MS: {
            "type": "string",
            "pattern": "^[0-9]+$",
            "description": f"Milliseconds from the record's broker timestamp, 1 to {MAX_DEADLINE_MS}.",
        },
    },
}
CONTENT_TYPE_HEADER = {
    "type": "string",
    "enum": [JSON, MSGPACK],
    "description": f"{MSGPACK}: the payload's fields in the schema's order, as a MessagePack array.",
}


def document() -> dict[str, Any]:
    """Public topics with their messages; internal ones are not part of the contract."""
    topics = [topic for topic in TOPICS.values() if topic.public]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "tiderank",
            "version": version("tiderank"),
            "description": "Ranking requests in, ranked ads out; impressions and conversions flow back.",
        },
        "defaultContentType": JSON,
        "channels": {_slug(t): _channel(t) for t in topics},
        "operations": {f"{_verb(t)}{_title(t)}": _operation(t) for t in topics},
        "components": {"messages": {_title(t): _message(t) for t in topics}, "schemas": schemas(topics)},
    }


def schemas(topics: list[Topic]) -> dict[str, Any]:
    """JSON Schemas (draft 2020-12) by struct name, referring to each other under #/components/schemas."""
    structs = [topic.message for topic in topics if topic.message is not None]
    return msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")[1]


def _channel(topic: Topic) -> dict[str, Any]:
    return {
        "address": topic.name,
        "messages": {_title(topic): {"$ref": f"#/components/messages/{_title(topic)}"}},
        "bindings": {"kafka": {"partitions": topic.partitions}},
    }


def _operation(topic: Topic) -> dict[str, Any]:
    return {
        "action": _verb(topic),
        "channel": {"$ref": f"#/channels/{_slug(topic)}"},
        "summary": (topic.message.__doc__ or "").strip().splitlines()[0] if topic.message else "",
    }


def _message(topic: Topic) -> dict[str, Any]:
    assert topic.message is not None  # public topics have structs
    headers = REQUEST_HEADERS if topic.name == REQUESTS else {"type": "object", "properties": {}}
    return {
        "name": topic.message.__name__,
        "contentType": JSON,
        "headers": headers | {"properties": headers["properties"] | {"content-type": CONTENT_TYPE_HEADER}},  # type: ignore[operator]
        "payload": {"$ref": f"#/components/schemas/{topic.message.__name__}"},
    }


def _verb(topic: Topic) -> str:
    """AsyncAPI speaks for the application described: tiderank receives what ad systems send."""
    return "receive" if topic.name.startswith("ads.") or topic.name == REQUESTS else "send"


def _title(topic: Topic) -> str:
    return topic.message.__name__ if topic.message else topic.name


def _slug(topic: Topic) -> str:
    return topic.name.replace(".", "-")
