"""Several ranking and ingest processes share the work, and one of each may leave: nothing is lost or stored twice."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from streams.audit import AuditReport, run_audit
from streams.client import RankingClient
from streams.kafka.scan import read_topic
from streams.local.kafka import why_not
from streams.simulate.config import demo
from streams.simulate.driver import Phase, simulate
from streams.simulate.report import SimReport
from streams.simulate.world import World
from streams.wire.codec import decode
from streams.wire.messages import RankingResponse
from streams.wire.topics import RESPONSES, TOPICS
from tests.e2e.running import House, check_alive, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(why_not() is not None, reason=f"needs a real consumer group: {why_not()}"),
]

PATIENCE_S = 120.0


def test_two_of_each_share_the_work_and_one_of_each_leaves(tmp_path: Path) -> None:
    with running(tmp_path, ["rank", "ingest", "train"]) as house:
        house.start("rank-second", "ingest-second")
        together = drive(house, "together")
        answered_by = replicas(house, together.request_ids)
        house.workers.pop("rank-second").child.stop()
        house.workers.pop("ingest-second").child.stop()
        alone = drive(house, "alone")
        check_alive(house)
        audit = settled(house)
    print(f"answered by: {dict(answered_by)}")
    assert set(answered_by) == {"local", "second"}
    assert min(answered_by.values()) > 0.1 * len(together.request_ids)
    for report in (together, alone):
        assert (report.delivery_errors, report.unsent_events) == (0, 0)
    assert audit.ok, audit.text()
    assert audit.count("events", "not_read") == audit.count("joins", "pending") == 0
    assert audit.count("requests", "unanswered") == 0
    assert audit.count("user_logs", "lost") == audit.count("user_logs", "stored_twice") == 0


def drive(house: House, prefix: str) -> SimReport:
    world = World(replace(demo(), candidates_median=30, candidates_max=60, conversion_delay_s=1.0), seed=3)
    with RankingClient(house.kafka) as client:
        return simulate(client, world, [Phase(rate=10, seconds=8)], prefix=prefix, drain_s=PATIENCE_S)


def replicas(house: House, request_ids: list[str]) -> Counter[str]:
    """Who answered: every request of these counts once for each of its answers."""
    asked = set(request_ids)
    responses: list[RankingResponse] = [decode(TOPICS[RESPONSES], r.value) for r in read_topic(house.kafka, RESPONSES)]
    return Counter(response.replica for response in responses if response.request_id in asked)


def settled(house: House) -> AuditReport:
    """Audits once all windows are closed and nothing waits to be read."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        report = run_audit(house.settings)
        waiting = report.count("events", "not_read") + report.count("joins", "pending")
        if waiting == 0 or time.monotonic() > deadline:
            return report
        time.sleep(1.0)
