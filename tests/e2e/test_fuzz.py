"""Odd messages to a whole house on a real Kafka; and header names that are no text, which clients choke on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.fuzzing.house import READERS, Report, run
from streams.kafka.connection import Kafka
from streams.local.kafka import why_not
from streams.operations import dlq
from streams.wire.topics import CONVERSIONS, DECISIONS, EXAMPLES, IMPRESSIONS, OUTCOMES, REQUESTS, REWARDS, SERVED
from tests.e2e.running import await_model, check_alive, running

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(why_not() is not None, reason="records of 1 MB need a real Kafka")]

MESSAGES = 200

# librdkafka's producer takes names that are UTF-8 alone; so does aiokafka's, but in the part of it that is Python.
STRANGE_HEADER = """
import asyncio, sys
import aiokafka

class Name(str):
    def encode(self, *_):
        return b"\\xff\\xfe"

async def main(bootstrap, *topics):
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for topic in topics:
            await producer.send_and_wait(topic, b"{}", key=b"strange", headers=[(Name("x"), b"v")])

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    found = run(tmp_path_factory.mktemp("fuzz"), messages=MESSAGES, seed=1)
    print(found.table())
    return found


def test_no_worker_ends_and_nothing_good_is_lost(report: Report) -> None:
    assert report.faults == []
    assert report.good == MESSAGES // 10
    assert report.good_events == 2 * report.good


def test_what_is_refused_is_a_dead_letter_and_the_rest_is_taken_in(report: Report) -> None:
    for topic, reader in READERS.items():
        outcome = report.topics[topic]
        assert outcome.sent >= MESSAGES
        assert outcome.taken > MESSAGES // 10
        if reader is not None:
            assert outcome.taken + outcome.letters.total() == outcome.sent
            assert len(outcome.letters) >= 4, "of all kinds"


def test_header_names_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    topics = [REQUESTS, SERVED, IMPRESSIONS, CONVERSIONS, EXAMPLES, REWARDS, DECISIONS, OUTCOMES]
    with running(tmp_path, ["rank", "ingest", "train", "learn", "rewards"]) as house:
        command = [sys.executable, "-c", STRANGE_HEADER, house.stack.bootstrap, *topics]
        subprocess.run(command, check=True, timeout=60, env=os.environ | {"AIOKAFKA_NO_EXTENSIONS": "1"})
        await_model(house)  # a request sent later is answered: the strange one is behind
        _await_letters(house.kafka, set(topics))
        check_alive(house)


def _await_letters(kafka: Kafka, topics: set[str], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while {letter.topic for letter in dlq.list_letters(kafka) if letter.record.key == b"strange"} != topics:
        assert time.monotonic() < deadline
        time.sleep(0.2)
