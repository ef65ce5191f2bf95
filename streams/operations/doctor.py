"""`tiderank doctor`: what is on this machine, what is wrong with it, and the mend. Takes seconds; imports no torch."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, libversion
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]  # public by its manual
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ranker.inputs.memory import usable_memory
from streams.config.settings import BOOTSTRAP, REDIS_URL, compiled_folder, data_dir
from streams.errors import StartError
from streams.kafka.connection import Kafka, topic_settings
from streams.local import kafka as local_kafka
from streams.local.health import broker_round_trip, redis_round_trip
from streams.local.redis import found_servers
from streams.machine import cpu_info
from streams.runtime.installed import INSTALL, PACKAGES, fbgemm_fault, version
from streams.runtime.redis_client import connect, memory_policy, redacted
from streams.wire.topics import TOPICS

__all__ = ["Finding", "print_report", "report"]

MIN_FREE_BYTES = 2 * 10**9
"""Kafka's segments, the append-only file and snapshots of a long demo."""
TIMEOUT_S = 5.0
GPU_INSTALL = "to train on it: pip uninstall -y fbgemm-gpu-cpu && pip install 'tiderank[gpu]'"
NOT_SET = "not set: `up` and `demo` start their own, the other commands need it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    ok: bool | None
    """False: something needed is wrong. None: for information, or could be better; then `mend` may say how."""
    found: str
    mend: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def report() -> list[Finding]:
    """All findings, in an order to read them in. Never raises for what is wrong with the machine: that is a finding."""
    return [*_python(), *_processor(), *_local_broker(), *_local_redis(), *_named_broker(), *_named_redis(), *_disk()]


def print_report(findings: Iterable[Finding], console: Console | None = None) -> None:
    console = console or Console()
    table = Table(box=None, pad_edge=False)
    for heading in ("", "what", "found", "mend"):
        table.add_column(heading, overflow="fold")
    marks = {True: Text("ok", "green"), False: Text("wrong", "bold red"), None: Text("-", "dim")}
    findings = list(findings)
    for finding in findings:
        table.add_row(marks[finding.ok], Text(finding.name), Text(finding.found), Text(finding.mend or "", "yellow"))
    console.print(table)
    wrong = [finding.name for finding in findings if finding.ok is False]
    console.print(f"wrong: {', '.join(wrong)}" if wrong else "all that is needed is here")


def _python() -> list[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    found = [
        Finding("Python", sys.version_info >= (3, 11), python, None if sys.version_info >= (3, 11) else "need 3.11+")
    ]
    for name in ("confluent-kafka", "msgspec", *PACKAGES):
        installed = version(name)
        found.append(Finding(name, installed is not None, installed or "missing", None if installed else INSTALL))
    found.append(Finding("librdkafka", True, libversion()[0]))
    if fault := fbgemm_fault():
        found.append(Finding("fbgemm", False, *fault))
    else:
        cpu, gpu = version("fbgemm-gpu-cpu"), version("fbgemm-gpu")
        found.append(Finding("fbgemm", True, f"cpu {cpu}" if cpu else f"gpu {gpu}"))
    torchrec = version("torchrec")
    found.append(Finding("torchrec", None, torchrec or "missing: the trainer looks rows up without, to the same bits"))
    triton = version("triton")
    found.append(Finding("triton", None, triton or "missing: the plain kernels are used"))
    return found


def _processor() -> list[Finding]:
    model, features = cpu_info(Path("/proc/cpuinfo"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [
        Finding("CPU", None, f"{model}, {cores} cores"),
        Finding("CPU features", None, " ".join(features) or "none known"),
        Finding("memory", None, usable_memory()[1]),
    ]
    if not {"avx512-bf16", "amx-bf16"} & set(features):
        found.append(Finding("bf16", None, "no instructions for it: slower here than fp32"))
    gpu = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    found.append(Finding("GPU", None, gpu or "none"))
    if gpu and version("fbgemm-gpu") is None:
        found[-1] = Finding("GPU", None, gpu, GPU_INSTALL)
    found.append(_graphs())
    threads = os.environ.get("OMP_NUM_THREADS")
    mend = None if threads == "1" else "export OMP_NUM_THREADS=1: several threads a process collapse on busy cores"
    found.append(Finding("OMP_NUM_THREADS", True if mend is None else None, threads or "not set", mend))
    return found


def _graphs() -> Finding:
    folder, cxx = compiled_folder(), os.environ.get("CXX", "g++")
    compiler = shutil.which(cxx)
    number = len(list(folder.glob("*.pt2")))
    mend = "for faster ranking: tiderank compile" + (
        "" if compiler else f" (where there is a C++ compiler: no {cxx} here)"
    )
    return Finding("compiled tiers", None, f"{number} in {folder}", None if number else mend)


def _local_broker() -> list[Finding]:
    java = local_kafka.find_java()
    obstacle = local_kafka.why_not()
    home = os.environ.get("KAFKA_HOME")
    found = [
        Finding("Java", None, f"{java[1]} ({java[0]})" if java else "none"),
        Finding("Maven", None, shutil.which("mvn") or "none"),
        Finding("KAFKA_HOME", None, home or "not set"),
    ]
    if home and not any(Path(home).glob("libs/kafka_2.*.jar")):
        found[-1] = Finding(
            "KAFKA_HOME", False, f"{home}: no libs/kafka_2.*.jar", "point it at an unpacked Kafka, or unset it"
        )
    if obstacle is None:
        found.append(Finding("local broker", True, "Apache Kafka"))
    else:
        mend = f"for a real Kafka install Java {local_kafka.MIN_JAVA} and Maven"
        found.append(Finding("local broker", None, f"in-memory only: {obstacle}", mend))
    return found


def _local_redis() -> list[Finding]:
    servers = found_servers()
    if servers:
        return [Finding("local Redis", True, ", ".join(f"{kind} ({path})" for kind, path in servers.items()))]
    needed = not os.environ.get(REDIS_URL)
    mend = "install redis-server 7 or later, or pip install 'tiderank[local]'"
    return [Finding("local Redis", False if needed else None, "none", mend if needed else None)]


def _named_broker() -> list[Finding]:
    bootstrap = os.environ.get(BOOTSTRAP)
    if not bootstrap:
        return [Finding(BOOTSTRAP, None, NOT_SET)]
    kafka = Kafka.from_environment(bootstrap)
    try:
        seconds = broker_round_trip(kafka, timeout_s=TIMEOUT_S)
    except StartError as error:
        return [Finding("broker", False, str(error), "start it, or set TIDERANK_BOOTSTRAP and TIDERANK_KAFKA_* right")]
    return [
        Finding("broker", True, f"{bootstrap}, a message there and back in {1000 * seconds:.0f} ms"),
        *_topics(kafka),
    ]


def _topics(kafka: Kafka) -> list[Finding]:
    """One finding if all topics are as they should be, else one for each that is not."""
    admin = kafka.admin()
    cluster = admin.list_topics(timeout=TIMEOUT_S)
    if (cluster.cluster_id or "").startswith("mockCluster"):
        return [Finding("topics", None, "in-memory broker: it makes topics when asked and keeps no settings")]
    missing = [name for name in TOPICS if name not in cluster.topics]
    wrong = [Finding(f"topic {name}", False, "missing", "tiderank topics create") for name in missing]
    present = [ConfigResource(ResourceType.TOPIC, name) for name in TOPICS if name in cluster.topics]
    answers = admin.describe_configs(present, request_timeout=TIMEOUT_S) if present else {}
    for resource, future in answers.items():
        topic, name = TOPICS[resource.name], f"topic {resource.name}"
        try:
            actual = {key: entry.value for key, entry in future.result(timeout=2 * TIMEOUT_S).items()}
        except (KafkaException, TimeoutError) as error:
            wrong.append(Finding(name, None, f"settings unknown: {_reason(error)}"))
            continue
        for key, want in topic_settings(topic).items():
            if actual.get(key) != want:
                mend = f"kafka-configs.sh --bootstrap-server {kafka.bootstrap} --entity-type topics"
                mend += f" --entity-name {topic.name} --alter --add-config {key}={want}"
                wrong.append(Finding(name, False, f"{key} is {actual.get(key)}, should be {want}", mend))
        partitions = len(cluster.topics[topic.name].partitions)
        if topic.partitions == 1 and partitions != 1:
            wrong.append(Finding(name, False, f"{partitions} partitions, needs 1: its order is one", "recreate it"))
    return wrong or [Finding("topics", True, f"all {len(TOPICS)} as they should be")]


def _named_redis() -> list[Finding]:
    url = os.environ.get(REDIS_URL)
    if not url:
        return [Finding(REDIS_URL, None, NOT_SET)]
    try:
        version = redis_round_trip(url, timeout_s=TIMEOUT_S)
    except StartError as error:
        return [Finding("Redis", False, str(error), "start it, or set TIDERANK_REDIS_URL right")]
    found = [Finding("Redis", True, f"{version} at {redacted(url)}")]
    wanted: dict[str, tuple[str, str, Callable[[Redis], str | None]]] = {
        "appendonly": (
            "yes",
            "a crash forgets the user logs",
            lambda redis: redis.config_get("append*").get("appendonly"),
        ),
        "maxmemory-policy": ("noeviction", "logs are dropped", lambda redis: memory_policy(redis)[0]),
    }
    for setting, (want, consequence, ask) in wanted.items():
        try:
            with connect(url) as client:
                actual = ask(client)
        except RedisError as error:  # managed services forbid CONFIG
            found.append(Finding(f"Redis {setting}", None, f"unknown: {error}"))
            continue
        text = f"{actual}: {consequence}" if actual != want else want
        found.append(
            Finding(
                f"Redis {setting}", actual == want, text, None if actual == want else f"CONFIG SET {setting} {want}"
            )
        )
    return found


def _disk() -> list[Finding]:
    folder = data_dir().absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    enough = free >= MIN_FREE_BYTES
    mend = None if enough else f"free {MIN_FREE_BYTES / 1e9:.0f} GB, or set TIDERANK_DATA to another disk"
    writable = os.access(existing, os.W_OK)
    if not writable:
        mend = "make it writable, or set TIDERANK_DATA"
    return [Finding("data folder", enough and writable, f"{folder}, {free / 1e9:.0f} GB free", mend)]


def _output(*command: str) -> str | None:
    """What a program prints, on one line; None if it is not there or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(result.stdout.strip().splitlines())


def _reason(error: Exception) -> str:
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, KafkaError) else str(error) or type(error).__name__
