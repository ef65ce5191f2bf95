"""The doctor's report, on this machine as it is and against servers that are well, ill and dead."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public by its manual
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from rich.console import Console

from streams.kafka.connection import Kafka
from streams.local import kafka as local_kafka
from streams.local.process import free_port
from streams.local.stack import LocalStack, local_stack
from streams.machine import cpu_info
from streams.operations.doctor import Finding, print_report, report
from streams.runtime.redis_client import connect
from streams.wire.topics import REQUESTS, TOPICS

needs_kafka = pytest.mark.skipif(local_kafka.why_not() is not None, reason=f"no Kafka: {local_kafka.why_not()}")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def wrong(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.ok is False]


@pytest.fixture(autouse=True)
def no_named_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDERANK_BOOTSTRAP", raising=False)
    monkeypatch.delenv("TIDERANK_REDIS_URL", raising=False)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalStack]:
    with local_stack(tmp_path, broker="kafka") as stack:
        monkeypatch.setenv("TIDERANK_BOOTSTRAP", stack.bootstrap)
        monkeypatch.setenv("TIDERANK_REDIS_URL", stack.redis_url)
        yield stack


def test_nothing_needed_is_wrong_where_the_tests_run() -> None:
    findings = report()
    assert wrong(findings) == []
    assert by_name(findings)["Python"].found == ".".join(map(str, sys.version_info[:3]))


def test_takes_seconds_and_no_torch() -> None:
    code = "import sys; from streams.operations.doctor import report; report(); print('torch' in sys.modules)"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert time.monotonic() - start < 30


def test_dead_servers_are_wrong_with_a_mend_and_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDERANK_BOOTSTRAP", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("TIDERANK_REDIS_URL", f"redis://:secret@127.0.0.1:{free_port()}/0")
    command = [sys.executable, "-m", "streams.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    findings = [Finding(**finding) for finding in json.loads(done.stdout)]
    assert (done.returncode, wrong(findings)) == (1, ["broker", "Redis"])
    assert all(by_name(findings)[name].mend for name in wrong(findings))
    assert "secret" not in done.stdout


@needs_kafka
@pytest.mark.e2e
def test_named_servers_and_their_settings(named: LocalStack) -> None:
    assert wrong(report()) == [f"topic {name}" for name in TOPICS]

    kafka = Kafka(named.bootstrap, {})
    kafka.create_topics()
    findings = report()
    assert wrong(findings) == []
    assert by_name(findings)["topics"].ok

    hour = ConfigEntry("retention.ms", "3600000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, REQUESTS, incremental_configs=[hour])
    admin = kafka.admin()
    admin.incremental_alter_configs([resource])[resource].result(timeout=10)
    with connect(named.redis_url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
    findings = report()
    assert wrong(findings) == [f"topic {REQUESTS}", "Redis maxmemory-policy"]
    assert "3600000" in by_name(findings)[f"topic {REQUESTS}"].found


def test_processor_features_are_read_from_its_flags(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nmodel name : Fast One\nflags : fpu avx2 amx_bf16 avx512f\nflags : fpu\n")
    assert cpu_info(file) == ("Fast One", ["avx2", "avx512", "amx-bf16"])
    assert cpu_info(tmp_path / "absent") == ("unknown", [])


def test_the_table_shows_every_finding_and_names_what_is_wrong() -> None:
    screen = io.StringIO()
    findings = [Finding("one", True, "fine"), Finding("two", False, "[broken]", "fix it"), Finding("three", None, "x")]
    print_report(findings, Console(file=screen, width=100))
    text = screen.getvalue()
    assert "[broken]" in text
    assert "fix it" in text
    assert text.strip().endswith("wrong: two")
