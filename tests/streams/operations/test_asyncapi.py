"""The AsyncAPI document: whole, and true to what the codec takes."""

import json
from typing import Any

import jsonschema
import pytest

from streams.operations.asyncapi import document
from streams.wire.codec import encode
from streams.wire.topics import REQUESTS, RESPONSES, TOPICS
from tests.streams.wire.test_codec import REQUEST, RESPONSE


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [ref for value in node.values() for ref in references(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in references(value)]
    return []


def test_every_reference_leads_somewhere() -> None:
    doc = document()
    found = references(doc)
    assert found
    for reference in found:
        node: Any = doc
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_public_topics_are_there_and_internal_ones_are_not() -> None:
    addresses = {channel["address"] for channel in document()["channels"].values()}
    assert addresses == {topic.name for topic in TOPICS.values() if topic.public}
    assert "training.examples" not in addresses


@pytest.mark.parametrize(("name", "message"), [(REQUESTS, REQUEST), (RESPONSES, RESPONSE)])
def test_payloads_validate(name: str, message: Any) -> None:
    validator(name).validate(json.loads(encode(TOPICS[name], message)))


def test_what_the_codec_refuses_does_not_validate() -> None:
    payload = json.loads(encode(TOPICS[REQUESTS], REQUEST))
    for bad in ({"user": ""}, {"candidates": [{"item": "i", "bid": -1}]}, {"top_k": 0}, {"features": {"x": [1]}}):
        with pytest.raises(jsonschema.ValidationError):
            validator(REQUESTS).validate(payload | bad)


def validator(topic: str) -> jsonschema.Draft202012Validator:
    struct = TOPICS[topic].message
    assert struct is not None
    return jsonschema.Draft202012Validator(document() | {"$ref": f"#/components/schemas/{struct.__name__}"})
