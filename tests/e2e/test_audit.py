"""The audit of a real house: right while it runs and among transactions, and not deceived where events are lost."""

import time
import uuid
from collections.abc import Iterator

import pytest

from benchmarks.lab.house import traffic
from benchmarks.lab.transactions import USERS, transaction
from streams.audit import AuditReport, run_audit
from streams.client import RankingClient
from streams.local.kafka import why_not
from streams.runtime.redis_client import connect
from streams.wire.messages import Conversion
from streams.wire.topics import CONVERSIONS
from streams.workers.ingest.worker import GROUP
from tests.e2e.running import House, check_alive, running
from tests.streams.group_offsets import move_group_to_the_end

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"transactions need a real Kafka: {why_not()}"),
]
EVENTS = 20
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    workers = ["rank", "ingest", "train", "rewards", "learn"]
    with running(tmp_path_factory.mktemp("audit"), workers, broker="kafka") as up:
        yield up
        check_alive(up)


@pytest.fixture(scope="module")
def house_of_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("one"), ["ingest"], broker="kafka") as up:
        yield up


@pytest.fixture
def ingest(house_of_one: House) -> House:
    """A house of one worker, which is stopped, and has read some events."""
    send(house_of_one)
    if not house_of_one.workers["ingest"].child.alive():
        house_of_one.start("ingest")
    await_ok(house_of_one)
    house_of_one.workers["ingest"].child.stop()
    return house_of_one


def test_a_house_under_load_is_right_each_time(house: House) -> None:
    with traffic(house.kafka, 20.0, seed=1, drain_s=30):
        time.sleep(3.0)
        for _ in range(3):
            assert_right(run_audit(house.settings))


def test_transactions_hide_nothing_and_alarm_nobody(house: House) -> None:
    before = run_audit(house.settings)
    for end in ("commit", "abort"):
        with transaction(house.stack.bootstrap, end) as name:
            pass
        again = run_audit(house.settings)
        assert_right(again)
    found = again.count("events", "distinct") - before.count("events", "distinct")
    assert found == 2 * USERS, "those committed, and not those aborted"
    with transaction(house.stack.bootstrap, "abort") as name, traffic(house.kafka, 5.0, seed=2, drain_s=90):
        time.sleep(3.0)
        report = run_audit(house.settings)
        assert_right(report)
        assert report.count("events", "behind_open_transaction") >= 2 * USERS, name
    report = run_audit(house.settings)
    assert_right(report)
    assert report.count("events", "behind_open_transaction") == 0


def test_what_redis_has_forgotten_is_lost_until_it_is_read_again(ingest: House) -> None:
    stored = run_audit(ingest.settings).count("user_logs", "events_stored")
    connect(ingest.stack.redis_url).flushall()
    assert_lost(run_audit(ingest.settings, patience_s=1.0), stored)
    ingest.start("ingest")
    await_ok(ingest)


def test_what_a_group_was_moved_over_is_lost_until_it_is_read_again(ingest: House) -> None:
    send(ingest)
    move_group_to_the_end(ingest.kafka, GROUP, CONVERSIONS)
    assert_lost(run_audit(ingest.settings, patience_s=1.0), EVENTS)
    ingest.start("ingest")
    await_ok(ingest)


def test_what_nothing_reads_is_a_fault(ingest: House) -> None:
    send(ingest)
    report = run_audit(ingest.settings, patience_s=1.0)
    assert not report.ok
    assert report.count("events", "not_read") == EVENTS
    assert report.count("events", "passed_unread") == 0
    (reason,) = report.as_dict()["reasons"]
    assert "nothing reads them: ingest has not got on for 1 s" in reason
    ingest.start("ingest")
    await_ok(ingest)


def send(house: House) -> None:
    with RankingClient(house.kafka) as client:
        for number in range(EVENTS):
            user = f"user-{number}"
            event_ms = int(time.time() * 1000)
            client.send_conversion(
                Conversion(event_id=uuid.uuid4().hex, user=user, kind="search", item="a", event_ms=event_ms)
            )
        client.flush(30.0)


def await_ok(house: House) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (report := run_audit(house.settings, patience_s=2.0)).ok:
        assert time.monotonic() < deadline, report.text()
    assert report.count("events", "distinct") == report.count("user_logs", "events_stored") > 0


def assert_lost(report: AuditReport, count: int) -> None:
    assert not report.ok
    found = {(fault["section"], fault["name"]): fault["count"] for fault in report.as_dict()["fault"]}
    assert found == {("events", "passed_unread"): count}, report.text()
    assert any("Redis does not have them" in reason for reason in report.as_dict()["reasons"])


def assert_right(report: AuditReport) -> None:
    assert report.ok, report.text()
    assert report.let_go == {}
    assert not [line for section in report.sections for line in section.lines if line.verdict == "unknown"]
