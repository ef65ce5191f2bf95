"""From outside Python, and by the published contract: Kafka's own console tools, and JSON Schemas over a real run."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from streams.client import RankingClient
from streams.kafka.scan import read_topic
from streams.local.kafka import libraries, why_not
from streams.operations.asyncapi import document
from streams.wire.messages import Candidate, Conversion, Impression, RankingRequest
from streams.wire.topics import REQUESTS, RESPONSES, TOPICS
from tests.e2e.running import House, check_alive, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"Kafka's console tools need a real Kafka: {why_not()}"),
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    workers = ["rank", "ingest", "train", "rewards", "learn"]
    with running(tmp_path_factory.mktemp("outside"), workers, broker="kafka") as up:
        yield up
        check_alive(up)


def java(libs: Path, tool: str, *arguments: str, text: str | None = None) -> str:
    command = ["java", "-cp", f"{libs}/*", tool, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_request_typed_into_kafkas_console_producer_is_answered(house: House) -> None:
    libs = libraries(print)
    request_id = uuid.uuid4().hex
    request = {
        "request_id": request_id,
        "user": "typed",
        "candidates": [{"item": "ad-1", "bid": 0.4}, {"item": "ad-2"}],
    }
    java(
        libs,
        "org.apache.kafka.tools.ConsoleProducer",
        *("--bootstrap-server", house.stack.bootstrap, "--topic", REQUESTS),
        *("--property", "parse.key=true", "--property", "key.separator=|"),
        text=f"typed|{json.dumps(request)}\n",
    )
    lines = java(
        libs,
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", house.stack.bootstrap, "--topic", RESPONSES),
        *("--from-beginning", "--timeout-ms", "10000"),
    ).splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]  # the tool logs among them
    (answer,) = [answer for answer in answers if answer["request_id"] == request_id]
    assert answer["status"] == "ok"
    assert {item["item"] for item in answer["items"]} == {"ad-1", "ad-2"}
    assert all(0 < item["pctr"] < 1 for item in answer["items"])


def test_every_payload_of_a_run_is_what_the_contract_says(house: House) -> None:
    """Requests, clicks and purchases go round; then every record on every public topic is held against its schema."""
    with RankingClient(house.kafka) as client:
        for number in range(20):
            user = f"validated-{number % 4}"
            response = client.rank(
                RankingRequest(
                    request_id=uuid.uuid4().hex,
                    user=user,
                    candidates=[Candidate(item=f"v-{i}", features={"category": "c", "price": 1.5}) for i in range(5)],
                    features={"segment": "s"},
                    context={"device": "phone"},
                ),
                timeout_s=30.0,
                deadline_ms=30_000,
            )
            follow(client, user, response.response_id, response.items[0].item)
        client.flush()
    schemas = document()
    counts = await_counts(house, {"router.rewards": 20, "router.outcomes": 20})
    for topic in (t for t in TOPICS.values() if t.public):
        assert topic.message is not None
        validator = jsonschema.Draft202012Validator(
            schemas | {"$ref": f"#/components/schemas/{topic.message.__name__}"},
            format_checker=jsonschema.FormatChecker(),
        )
        payloads = [json.loads(record.value or b"") for record in read_topic(house.kafka, topic.name)]
        assert payloads, f"nothing on {topic.name}"
        for payload in payloads:
            validator.validate(payload)
        counts[topic.name] = len(payloads)
    print("validated", counts)


def follow(client: RankingClient, user: str, response_id: str, item: str) -> None:
    """The item is shown, clicked and bought."""
    now_ms, shown = int(time.time() * 1000), uuid.uuid4().hex
    client.send_impression(
        Impression(event_id=shown, user=user, response_id=response_id, item=item, position=0, event_ms=now_ms)
    )
    for kind, value in (("click", 0.0), ("purchase", 9.5)):
        conversion = Conversion(
            event_id=f"{kind}-{shown}", user=user, kind=kind, impression_id=shown, event_ms=now_ms + 1, value=value
        )
        client.send_conversion(conversion)


def await_counts(house: House, wanted: dict[str, int], timeout_s: float = 60.0) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        counts = {topic: sum(1 for _ in read_topic(house.kafka, topic)) for topic in wanted}
        if all(counts[topic] >= count for topic, count in wanted.items()):
            return counts
        time.sleep(0.5)
    raise AssertionError(f"after {timeout_s} s: {counts}, wanted {wanted}")
