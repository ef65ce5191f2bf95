"""docker-compose.yml, without a container engine: its text holds together, and its very commands work as processes."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from streams.cli import cli
from streams.client import RankingClient
from streams.config import settings
from streams.kafka.connection import Kafka
from streams.local.kafka import server_properties
from streams.local.process import Child, free_port
from streams.local.stack import LocalStack, local_stack
from streams.runtime.health import healthy
from streams.wire.messages import Candidate, RankingRequest

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = {name: service for name, service in SERVICES.items() if service.get("command", [""])[0] == "tiderank"}
ON_CPU = [name for name, service in WORKERS.items() if name != "init" and service.get("profiles", ["cpu"]) == ["cpu"]]
METRICS_PORT = "9464"
READY_TIMEOUT_S = 180.0


def test_every_worker_is_there_once_for_each_device() -> None:
    assert sorted(ON_CPU) == ["ingest", "learn", "rank", "rewards", "train"]
    on_gpu = [name for name, service in WORKERS.items() if service.get("profiles") == ["gpu"]]
    for name in on_gpu:
        assert WORKERS[name]["command"] == WORKERS[name.removesuffix("-gpu")]["command"]
    assert sorted(on_gpu) == ["rank-gpu", "train-gpu"]


@pytest.mark.parametrize("name", [*ON_CPU, "rank-gpu", "train-gpu"])
def test_every_worker_comes_back_and_is_watched(name: str) -> None:
    service = WORKERS[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"] == ["CMD", "python", "-m", "streams.runtime.health", METRICS_PORT]
    assert service["environment"]["TIDERANK_METRICS_PORT"] == METRICS_PORT
    assert service["depends_on"]["init"] == {"condition": "service_completed_successfully"}
    known = {value for value in vars(settings).values() if isinstance(value, str) and value.startswith("TIDERANK_")}
    known |= {option.envvar for option in cli.commands["rank"].params if isinstance(option.envvar, str)}
    assert {key for key in service["environment"] if key.startswith("TIDERANK_")} <= known


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_kafka_is_the_version_and_the_configuration_of_the_local_one() -> None:
    pom = (ROOT / "deploy" / "kafka" / "pom.xml").read_text()
    version = re.search(r"<kafka.version>(.+)</kafka.version>", pom)
    assert version is not None
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version[1]}"
    local = dict(line.split("=", 1) for line in server_properties(Path("/d"), port=1, controller_port=2).splitlines())
    given = {key[6:].lower().replace("_", "."): str(value) for key, value in SERVICES["kafka"]["environment"].items()}
    shared = {key for key in local.keys() & given.keys() if "listener" not in key and "quorum" not in key}
    assert len(shared) > 8
    for key in shared - {"log.dirs"}:
        assert given[key] == local[key], key


def test_named_volumes_are_declared_and_files_exist() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    for source in {mount.split(":")[0] for mount in mounts}:
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], source
    assert {service["build"]["dockerfile"] for service in WORKERS.values()} == {"deploy/Dockerfile"}


def test_a_plain_start_has_the_cpu_workers() -> None:
    lines = [line for line in (ROOT / ".env").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["COMPOSE_PROFILES=cpu"]


def test_prometheus_looks_where_the_workers_answer() -> None:
    [job] = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    [found] = job["dns_sd_configs"]
    assert sorted(found["names"]) == sorted(WORKERS.keys() - {"init"})
    assert str(found["port"]) == METRICS_PORT


class Containers:
    """Runs services as processes of this machine, with addresses, ports and folders put in place of the containers'."""

    def __init__(self, stack: LocalStack, home: Path) -> None:
        self._home = home
        redis = urlsplit(stack.redis_url)
        self._replacements = {
            "kafka:9092": stack.bootstrap,
            "redis:6379": redis.netloc,
            "/var/lib/tiderank": str(home),
            "0.0.0.0": "127.0.0.1",
        }
        self._ports = {name: str(free_port()) for name in WORKERS}

    def environment(self, name: str) -> dict[str, str]:
        return {key: self._local(value, name) for key, value in WORKERS[name]["environment"].items()}

    def command(self, name: str) -> list[str]:
        return self._program([self._local(part, name) for part in WORKERS[name]["command"]])

    def health_command(self, name: str) -> list[str]:
        kind, *command = WORKERS[name]["healthcheck"]["test"]
        assert kind == "CMD"
        return self._program([self._local(part, name) for part in command])

    def child(self, name: str) -> Child:
        return Child(name, self.command(name), home=self._home, environment=self.environment(name))

    def metrics_port(self, name: str) -> int:
        return int(self._ports[name])

    def _local(self, value: str, name: str) -> str:
        value = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value)  # the default: the test runs with no variable of its own
        for theirs, ours in (self._replacements | {METRICS_PORT: self._ports[name]}).items():
            value = value.replace(theirs, ours)
        return value

    def _program(self, command: list[str]) -> list[str]:
        """The image's PATH leads to its environment; here that of the tests stands for it."""
        programs = {"python": [sys.executable], "tiderank": [sys.executable, "-m", "streams.cli"]}
        return [*programs[command[0]], *command[1:]]


def is_healthy(port: int) -> bool:
    return healthy(port)[0]


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[tuple[Containers, LocalStack]]:
    with local_stack(tmp_path) as stack:
        yield Containers(stack, tmp_path), stack


@pytest.mark.e2e
def test_the_commands_of_the_file_answer_a_request(containers: tuple[Containers, LocalStack]) -> None:
    these, stack = containers
    init = [*these.command("init")]
    done = subprocess.run(init, env=os.environ | these.environment("init"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with ExitStack() as running:
        children = {name: these.child(name) for name in ON_CPU}
        for child in children.values():
            running.callback(child.stop)
            child.start()
        for name, child in children.items():
            child.wait_for(partial(is_healthy, these.metrics_port(name)), READY_TIMEOUT_S)
            assert subprocess.run(these.health_command(name), capture_output=True, check=False).returncode == 0, name
        assert_scored(Kafka(stack.bootstrap, {}))
        assert all(child.alive() for child in children.values())


def assert_scored(kafka: Kafka) -> None:
    """Every request is answered, and soon one by a model: until the trainer has published, answers are fallbacks."""
    candidates = [Candidate(item=f"ad-{i}") for i in range(20)]
    with RankingClient(kafka) as client:
        for number in range(120):
            request = RankingRequest(request_id=f"r{number}", user="u1", candidates=candidates)
            response = client.rank(request, timeout_s=60, deadline_ms=30_000)
            assert {item.item for item in response.items} <= {candidate.item for candidate in candidates}
            if response.status == "ok":
                return
            time.sleep(0.5)
    pytest.fail(f"no request was scored; the last answer: {response}")
