"""A real Apache Kafka of one node (KRaft): found or fetched, configured, started by class path."""

import base64
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streams.kafka.connection import Kafka
from streams.local.health import broker_round_trip
from streams.local.process import Child, StackError, free_port, listening
from streams.local.server import Server

MIN_JAVA = 17
FETCH_TIMEOUT_S = 300
START_TIMEOUT_S = 60.0
_PACKAGE = Path(__file__).resolve().parent
_REPOSITORY = _PACKAGE.parent.parent
_JVM = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.apache.logging.log4j.level=WARN"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """How clients reach the broker, and who it lets do what. By default without protection, on loopback."""

    protocol: str = "PLAINTEXT"
    server: Mapping[str, str] = field(default_factory=dict)
    """Further properties of the server: certificates, mechanisms, the authorizer."""
    client: Mapping[str, str] = field(default_factory=dict)
    """librdkafka properties of a client that may do all: it proves that the broker works."""
    users: Mapping[str, str] = field(default_factory=dict)
    """SCRAM-SHA-512 passwords by user, made with the storage."""


def find_java() -> tuple[str, int] | None:
    """The `java` of JAVA_HOME, else of the PATH, and its major version; None if there is none that runs."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None:
        return None
    try:
        banner = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r'version "(\d+)', banner)
    return (java, int(version[1])) if version else None


def why_not() -> str | None:
    """What keeps Kafka from running here; None if nothing is known to (fetching may still fail)."""
    java = find_java()
    if java is None:
        return "no Java found"
    if java[1] < MIN_JAVA:
        return f"Java {java[1]} found, Kafka needs {MIN_JAVA}"
    if not os.environ.get("KAFKA_HOME") and shutil.which("mvn") is None and not _fetched().is_dir():
        return "neither KAFKA_HOME nor Maven found"
    return None


def libraries(announce: Callable[[str], None]) -> Path:
    """The folder of Kafka's jars: of KAFKA_HOME, else fetched once from Maven Central. Raises StackError."""
    home = os.environ.get("KAFKA_HOME")
    if home:
        libs = Path(home) / "libs"
        if not any(libs.glob("kafka_2.*.jar")):
            raise StackError(f"KAFKA_HOME is {home}, but {libs} holds no kafka_2.*.jar; point it at an unpacked Kafka")
        return libs
    libs = _fetched()
    if not libs.is_dir():
        libs.parent.mkdir(parents=True, exist_ok=True)
        with (libs.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several stacks may start at once
            if not libs.is_dir():
                announce("fetching Apache Kafka from Maven Central (45 MB, once)")
                _fetch(libs)
                _archive_classes(libs)
    return libs


def _pom() -> Path:
    """In the repository, or beside this file where the package is installed."""
    inside = _PACKAGE / "pom.xml"
    return inside if inside.exists() else _REPOSITORY / "deploy" / "kafka" / "pom.xml"


def _fetched() -> Path:
    """Where the jars of this very pom are kept, once fetched."""
    if (_REPOSITORY / "pyproject.toml").exists():
        cache = _REPOSITORY / ".cache"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiderank"
    return cache / "kafka" / hashlib.sha256(_pom().read_bytes()).hexdigest()[:16]


def _fetch(libs: Path) -> None:
    partial = libs.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", str(_pom()), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"Maven could not fetch Kafka: {error}; set KAFKA_HOME to an unpacked Kafka") from error
    if result.returncode != 0 or not any(partial.glob("kafka_2.*.jar")):
        words = "\n".join((result.stdout + result.stderr).splitlines()[-8:])
        raise StackError(f"Maven could not fetch Kafka; set KAFKA_HOME to an unpacked Kafka, or mend:\n{words}")
    partial.rename(libs)  # whole or not at all


def _archive(libs: Path) -> Path:
    """File of Kafka's classes as this Java has them in memory; a JVM that cannot use it goes without."""
    return libs.with_suffix(".jsa")


def _archive_classes(libs: Path) -> None:
    """Starts a broker once and stops it, for its classes: with them another starts in two thirds of the time."""
    java = find_java()
    if java is None:
        return
    with tempfile.TemporaryDirectory(prefix="tiderank-kafka-") as folder:
        home, port = Path(folder), free_port()
        properties, made = home / "server.properties", home / "classes.jsa"
        properties.write_text(server_properties(home / "log", port=port, controller_port=free_port()))
        _format(java[0], libs, properties, {})
        command = [
            java[0],
            *_JVM,
            f"-XX:ArchiveClassesAtExit={made}",
            *_class_path(libs),
            "kafka.Kafka",
            str(properties),
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as broker:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not listening(port) and broker.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            broker.terminate()
            try:
                broker.wait(START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                broker.kill()
        if made.exists():
            shutil.copy(made, _archive(libs))


def _class_path(libs: Path) -> list[str]:
    return ["-cp", f"{libs}/*"]


def _java_options(libs: Path) -> list[str]:
    archive = _archive(libs)
    return [*_JVM, *([f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []), *_class_path(libs)]


def kafka_server(home: Path, announce: Callable[[str], None], *, listener: Listener = Listener()) -> Server:
    """A broker with its data under `home`/kafka, ready to start. Raises StackError where it cannot run."""
    obstacle = why_not()
    java = find_java()
    if obstacle is not None or java is None:
        raise StackError(
            f"Kafka cannot run here: {obstacle}; install Java {MIN_JAVA} and Maven, or use --broker memory"
        )
    libs = libraries(announce)
    data = home / "kafka"
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    properties = data / "server.properties"
    properties.write_text(server_properties(data / "log", port=port, controller_port=free_port(), listener=listener))
    if not (data / "log" / "meta.properties").exists():
        _format(java[0], libs, properties, listener.users)
    child = Child("kafka", [java[0], *_java_options(libs), "kafka.Kafka", str(properties)], home=home)
    kafka = Kafka(f"127.0.0.1:{port}", listener.client)
    version = next(libs.glob("kafka_2.*.jar")).stem.partition("-")[2]

    def await_healthy() -> str:
        child.wait_for(lambda: listening(port), START_TIMEOUT_S)
        try:
            broker_round_trip(kafka, timeout_s=START_TIMEOUT_S)
        except StackError as error:
            raise StackError(f"{error}{child.last_words()}") from error
        return f"Apache Kafka {version}"

    return Server("kafka", lambda: kafka.bootstrap, await_healthy=await_healthy, child=child)


def server_properties(data: Path, *, port: int, controller_port: int, listener: Listener = Listener()) -> str:
    """The configuration of one node that is broker and controller, on loopback only."""
    name = listener.protocol
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"{name}://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"{name}://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": f"{name}:{name},CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        # One node has one replica, and few partitions of the internal topics start and recover sooner.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 8,
        # An open transaction holds back every event after it: nobody may ask for the broker's own 15 minutes.
        "transaction.max.timeout.ms": 60_000,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # A group is joined at once, not after 3 s.
        "group.initial.rebalance.delay.ms": 0,
        # A killed broker is let back in after 4 s, not 9. With 2 s a busy machine's broker is taken for dead at times:
        # then no partition has a leader, and aiokafka, which is told of no broker, never asks again.
        "broker.session.timeout.ms": 4_000,
        "broker.heartbeat.interval.ms": 500,
        # A controller without followers need not tell them twice a second that it lives: that costs 10 % of a core.
        "metadata.max.idle.interval.ms": 0,
        # On two cores more of them only wake each other: 6 % of what a request costs the broker.
        "num.network.threads": 1,
        "num.io.threads": 2,
        # Else a kill brings back what was deleted in the minute before.
        "log.flush.start.offset.checkpoint.interval.ms": 1_000,
        "log.cleaner.dedupe.buffer.size": 16 * 2**20,  # of the heap; the default is 128 MB
        **listener.server,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def cluster_id() -> str:
    """22 characters of URL-safe base64. Never with a dash in front: Kafka's tool would take it for an option."""
    first, *rest = uuid.uuid4().bytes
    return base64.urlsafe_b64encode(bytes([first & 0x7F, *rest])).decode().rstrip("=")


def _format(java: str, libs: Path, properties: Path, users: Mapping[str, str]) -> None:
    command = [java, *_java_options(libs), "kafka.tools.StorageTool", "format", "-t", cluster_id()]
    command += ["-c", str(properties)]
    for name, password in users.items():
        command += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    if result.returncode != 0:
        raise StackError(f"Kafka's storage under {properties.parent} could not be formatted:\n{result.stderr[-2_000:]}")
