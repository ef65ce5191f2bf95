"""The local stack, each broker and each Redis found on this machine, and every way of ending it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis
from confluent_kafka import TopicPartition

from streams.kafka.connection import Kafka
from streams.local import kafka as local_kafka
from streams.local import stack as local
from streams.local.health import HEALTH_TOPIC, broker_round_trip, redis_round_trip
from streams.local.process import Child, StackError, _born, end_orphans, free_port
from streams.local.redis import found_servers
from streams.local.stack import LocalStack, local_stack
from streams.runtime.redis_client import redacted

pytestmark = pytest.mark.e2e

REDIS_KINDS = [
    pytest.param(kind, marks=[] if kind in found_servers() else pytest.mark.skip(reason=f"no {kind} on this machine"))
    for kind in ("redis-server", "valkey")
]
needs_kafka = pytest.mark.skipif(local_kafka.why_not() is not None, reason=f"no Kafka: {local_kafka.why_not()}")


@pytest.fixture(autouse=True)
def no_named_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDERANK_BOOTSTRAP", raising=False)
    monkeypatch.delenv("TIDERANK_REDIS_URL", raising=False)


@pytest.fixture(scope="module")
def kafka_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("stack"), broker="kafka") as stack:
        yield stack


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def await_true(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("kind", REDIS_KINDS)
def test_each_redis_keeps_its_data_over_kill_and_restart(tmp_path: Path, kind: str) -> None:
    with local_stack(tmp_path, broker="memory", redis=kind) as stack:  # type: ignore[arg-type]
        assert stack.redis_kind == kind
        with redis.Redis.from_url(stack.redis_url) as client:
            client.set("k", "v")
            # In the append-only file before it is acknowledged, if not yet on the disk; unless that file is being
            # synced just then, which makes the server write up to two seconds later.
            deadline = time.monotonic() + 20
            while client.info("persistence")["aof_buffer_length"]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            pid = stack.redis.pid
            stack.redis.kill()
            assert not alive(pid)
            stack.redis.restart()
            assert client.get("k") == b"v"
        assert stack.redis.pid != pid
        last = stack.redis.pid, stack.broker.pid
    assert not any(map(alive, last))


def test_memory_broker_round_trip_and_limits(tmp_path: Path) -> None:
    said: list[str] = []
    with local_stack(tmp_path, broker="memory", announce=said.append) as stack:
        assert stack.broker_kind == "memory"
        assert broker_round_trip(Kafka(stack.bootstrap, {})) < 5
        with pytest.raises(StackError, match="cannot be restarted"):
            stack.broker.restart()
    assert any("5 MB" in line for line in said)


@needs_kafka
def test_kafka_keeps_its_records_over_kill_and_restart(kafka_stack: LocalStack) -> None:
    kafka = Kafka(kafka_stack.bootstrap, {})
    broker_round_trip(kafka)
    reader = kafka.reader()
    place = TopicPartition(HEALTH_TOPIC.name, 0)
    try:
        before = reader.get_watermark_offsets(place, timeout=10)
        kafka_stack.broker.kill()
        kafka_stack.broker.restart()  # with one round trip of its own
        after = reader.get_watermark_offsets(place, timeout=10)
    finally:
        reader.close()
    assert before is not None
    assert after == (before[0], before[1] + 1)


@needs_kafka
def test_kafka_makes_no_topic_unasked(kafka_stack: LocalStack) -> None:
    admin = Kafka(kafka_stack.bootstrap, {}).admin()
    admin.list_topics("never.created", timeout=10)
    assert "never.created" not in admin.list_topics(timeout=10).topics


@needs_kafka
def test_named_servers_are_used_and_left_alone(
    kafka_stack: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDERANK_BOOTSTRAP", kafka_stack.bootstrap)
    monkeypatch.setenv("TIDERANK_REDIS_URL", kafka_stack.redis_url)
    with local_stack(tmp_path) as stack:
        assert (stack.broker_kind, stack.redis_kind) == ("external", "external")
        with pytest.raises(StackError, match="not started by this stack"):
            stack.broker.kill()
    redis_round_trip(kafka_stack.redis_url)
    broker_round_trip(Kafka(kafka_stack.bootstrap, {}))


@pytest.mark.parametrize("variable", ["TIDERANK_BOOTSTRAP", "TIDERANK_REDIS_URL"])
def test_a_named_server_that_is_dead_is_an_error_and_nothing_stays(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(variable, address if variable == "TIDERANK_BOOTSTRAP" else f"redis://:secret@{address}/0")
    monkeypatch.setattr(local, "EXTERNAL_TIMEOUT_S", 2.0)
    start = time.monotonic()
    with pytest.raises(StackError, match=f"{address}.*{variable}") as error:
        local_stack(tmp_path, broker="auto")
    assert time.monotonic() - start < 20
    assert "secret" not in str(error.value)
    assert not list((tmp_path / "run").glob("*.pid"))


def test_a_start_that_fails_shows_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "appendonlydir").write_text("a file where the server wants a folder")
    with pytest.raises(StackError, match=r"(?s)ended with code 1.*logs/.*\.log:\n.*appendonlydir"):
        local_stack(tmp_path, broker="memory")
    assert not list((tmp_path / "run").glob("*.pid"))
    assert not [p for p in psutil.Process().children(recursive=True) if alive(p.pid) and str(tmp_path) in p.cmdline()]


def test_kafka_home_without_kafka_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(StackError, match="KAFKA_HOME"):
        local_kafka.libraries(lambda line: None)


def test_a_folder_in_use_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    with local_stack(tmp_path, broker="memory"), pytest.raises(StackError, match=f"in use by .* {os.getpid()};"):
        local_stack(tmp_path, broker="memory")
    with local_stack(tmp_path, broker="memory") as stack:
        assert alive(stack.redis.pid)


@contextmanager
def up(data_dir: Path, broker: str) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """`up` in a process of its own, once it serves, with the pids of its servers."""
    script = "from pathlib import Path; from streams.local.up import up; "
    script += f"up(Path({str(data_dir)!r}), broker={broker!r})"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any("Ctrl-C" in line for line in process.stdout)
            pids = [json.loads(path.read_text())["pid"] for path in (data_dir / "run").glob("*.pid")]
            assert len(pids) == 2
            assert all(map(alive, pids))
            yield process, pids
        finally:
            process.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_up_ends_cleanly_on_a_signal(tmp_path: Path, how: signal.Signals) -> None:
    with up(tmp_path, "memory") as (process, servers):
        process.send_signal(how)
        said, _ = process.communicate(timeout=20)
    assert (process.returncode, said.splitlines()[-1]) == (0, "stopped")
    assert not any(map(alive, servers))


@pytest.mark.parametrize("broker", ["memory", pytest.param("kafka", marks=needs_kafka)])
def test_servers_die_with_a_killed_parent(tmp_path: Path, broker: str) -> None:
    with up(tmp_path, broker) as (process, servers):
        process.kill()
        process.wait(timeout=20)
        assert await_true(lambda: not any(map(alive, servers)))


def test_up_says_when_a_server_dies(tmp_path: Path) -> None:
    with up(tmp_path, "memory") as (process, servers):
        os.kill(servers[0], signal.SIGKILL)
        assert process.wait(timeout=20) == 1
        assert await_true(lambda: not any(map(alive, servers)))


def test_an_orphan_is_ended_and_a_stranger_with_its_pid_is_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command) as orphan, subprocess.Popen(command) as stranger:
        (run / "orphan.pid").write_text(json.dumps({"pid": orphan.pid, "born": _born(orphan.pid)}))
        (run / "stranger.pid").write_text(json.dumps({"pid": stranger.pid, "born": "another boot:1"}))
        (run / "torn.pid").write_text('{"pid":')
        assert end_orphans(tmp_path) == ["orphan"]
        assert orphan.wait(5) == -signal.SIGKILL
        assert stranger.poll() is None
        stranger.kill()
    assert not list(run.iterdir())


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.local.process.STOP_TIMEOUT_S", 0.3)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    child = Child("deaf", [sys.executable, "-c", deaf], home=tmp_path)
    child.start()
    child.wait_for(lambda: "deaf" in child.last_words().splitlines(), timeout_s=5)
    child.stop()
    assert not alive(child.pid)


def test_passwords_are_not_shown() -> None:
    assert redacted("rediss://me:secret@host:1/0") == "rediss://me:***@host:1/0"
    assert redacted("redis://host:1/0") == "redis://host:1/0"
