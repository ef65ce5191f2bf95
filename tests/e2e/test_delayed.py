"""Delayed conversions through the whole house: said to be negative, corrected, learned, and right by the audit."""

import time
import uuid
from pathlib import Path

import pytest

from streams.audit import run_audit
from streams.client import RankingClient
from streams.kafka.scan import read_topic
from streams.wire.codec import decode
from streams.wire.messages import Candidate, Conversion, Impression, RankingRequest, TrainingExample
from streams.wire.topics import EXAMPLES, TOPICS
from tests.e2e.running import RECIPE, House, check_alive, running

pytestmark = pytest.mark.e2e

DELAYED = (
    RECIPE.replace("early_ms = 4000\n", "early_ms = 4000\nprovisional = 'elapsed'\nelapsed_ms = 700\n")
    + "[training.learner]\nconversions = 'es_dfm'\n[model]\nlearns_late = true\n"
)
USERS = 6
WITHIN_S = 30.0


def test_a_conversion_corrects_what_the_elapsed_time_said(tmp_path: Path) -> None:
    with running(tmp_path, ["rank", "ingest", "train"], broker="memory", recipe=DELAYED) as house:
        shown = [visit(house, f"user-{number}") for number in range(USERS)]
        time.sleep(1.5)  # longer than the elapsed time, shorter than the attribution window
        with RankingClient(house.kafka) as client:
            for impression in shown[::2]:
                client.send_conversion(acted(impression, "purchase"))
        made = examples(house, 3 * USERS)
        for impression in shown:
            bought = impression in shown[::2]
            names = {kind: f"{kind}:{impression.event_id}" for kind in ("click", "provisional", "conversion")}
            assert made[names["click"]].label == 1
            assert made[names["provisional"]].label == 0
            final = made[names["conversion"]]
            assert (final.label, final.corrects, final.by_window) == (bought, bought, not bought)
        watermark_ms = max(example.label_ms for example in made.values())
        wait_for(house, watermark_ms)
        report = run_audit(house.settings)
        assert report.ok, report
        check_alive(house)


def visit(house: House, user: str) -> Impression:
    """Asks, shows the first ad, and clicks it."""
    with RankingClient(house.kafka) as client:
        request = RankingRequest(request_id=uuid.uuid4().hex, user=user, candidates=[Candidate(item="a")])
        response = client.rank(request, timeout_s=30.0, deadline_ms=30_000)
        impression = Impression(
            event_id=uuid.uuid4().hex,
            user=user,
            response_id=response.response_id,
            item="a",
            position=0,
            event_ms=int(time.time() * 1000),
        )
        client.send_impression(impression)
        client.send_conversion(acted(impression, "click"))
    return impression


def acted(impression: Impression, kind: str) -> Conversion:
    return Conversion(
        event_id=uuid.uuid4().hex,
        user=impression.user,
        kind=kind,
        impression_id=impression.event_id,
        event_ms=int(time.time() * 1000),
    )


def examples(house: House, count: int) -> dict[str, TrainingExample]:
    """By id, once so many are there; all deliveries of one are equal."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        found: dict[str, TrainingExample] = {}
        for record in read_topic(house.kafka, EXAMPLES):
            example = decode(TOPICS[EXAMPLES], record.value)
            assert found.setdefault(example.example_id, example) == example
        if len(found) >= count:
            return found
        time.sleep(0.3)
    raise AssertionError(f"{len(found)} examples of {count} in {WITHIN_S} s: {sorted(found)}")


def wait_for(house: House, watermark_ms: int) -> None:
    """Returns once responses are scored by weights that have learned up to that time."""
    deadline = time.monotonic() + WITHIN_S
    with RankingClient(house.kafka) as client:
        while time.monotonic() < deadline:
            request = RankingRequest(request_id=uuid.uuid4().hex, user="later", candidates=[Candidate(item="a")])
            if (client.rank(request, timeout_s=30.0, deadline_ms=30_000).watermark_ms or 0) >= watermark_ms:
                return
            time.sleep(0.2)
    raise AssertionError("no response was scored by weights that have learned the last example")
