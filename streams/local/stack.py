"""The local stack: a broker and a Redis with their data in one folder, named, found or fetched, and proved to work.

with local_stack(Path(".data")) as stack:
    workers_use(stack.bootstrap, stack.redis_url)
"""

import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal

from streams.config.settings import BOOTSTRAP, REDIS_URL
from streams.kafka.connection import Kafka
from streams.local import kafka, memory_broker
from streams.local.health import broker_round_trip, redis_round_trip
from streams.local.process import StackError, end_orphans
from streams.local.redis import redis_server
from streams.local.server import Server
from streams.runtime.redis_client import redacted

__all__ = ["BrokerChoice", "LocalStack", "StackError", "local_stack"]

BrokerChoice = Literal["auto", "kafka", "memory"]
EXTERNAL_TIMEOUT_S = 10.0
"""How long a named server has to answer before it counts as dead."""


class LocalStack:
    """Two running servers. Leave the `with` block, or call `close`, to end those that are ours."""

    def __init__(self, broker: Server, redis: Server, closing: ExitStack) -> None:
        self.broker = broker
        self.redis = redis
        self._closing = closing

    @property
    def bootstrap(self) -> str:
        """Address for `bootstrap.servers`."""
        return self.broker.address

    @property
    def redis_url(self) -> str:
        return self.redis.address

    @property
    def broker_kind(self) -> str:
        """external, kafka or memory."""
        return self.broker.kind

    @property
    def redis_kind(self) -> str:
        """external, redis-server or valkey."""
        return self.redis.kind

    def close(self) -> None:
        """Ends our servers and frees the folder. A second call does nothing."""
        self._closing.close()

    def __enter__(self) -> "LocalStack":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def local_stack(
    data_dir: Path,
    *,
    broker: BrokerChoice = "auto",
    redis: Literal["redis-server", "valkey"] | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> LocalStack:
    """Starts what is not named by the environment, and returns when both servers have answered a round trip.

    The broker is the one of TIDERANK_BOOTSTRAP, else Apache Kafka where Java 17 and (KAFKA_HOME or Maven) are found,
    else librdkafka's in-memory one. Redis is that of TIDERANK_REDIS_URL, else `redis-server`, else Valkey. Asking for
    a kind overrules the environment. What was chosen, and why, goes to `announce`, a line a call.

    Raises StackError, with nothing left running, if a server does not start or answer, or if another stack uses
    `data_dir`. Call it from a thread that outlives the stack: the servers die with the thread that started them.
    """
    data_dir = data_dir.resolve()
    with ExitStack() as started:
        _claim(data_dir, started)
        for name in end_orphans(data_dir):
            announce(f"ended {name}, left running by an earlier stack")
        redis_part = _choose_redis(data_dir, redis)
        started.callback(redis_part.stop)
        redis_part.start()
        announce(f"redis:  {redis_part.version} at {redacted(redis_part.address)} ({redis_part.kind})")
        broker_part = _start_broker(data_dir, broker, started, announce)
        announce(f"broker: {broker_part.version} at {broker_part.address} ({broker_part.kind})")
        if broker_part.kind == "memory":
            for line in memory_broker.LIMITS:
                announce(line)
        return LocalStack(broker_part, redis_part, started.pop_all())


def _claim(data_dir: Path, started: ExitStack) -> None:
    """Holds the folder for as long as this process lives. The kernel frees it, however we end."""
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = started.enter_context((data_dir / "lock").open("a+"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip()
        raise StackError(
            f"{data_dir} is in use by the stack of process {holder}; stop that one or choose another folder"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def _choose_redis(data_dir: Path, kind: str | None) -> Server:
    url = os.environ.get(REDIS_URL)
    if url and kind is None:
        return Server(
            "external", lambda: url, await_healthy=lambda: redis_round_trip(url, timeout_s=EXTERNAL_TIMEOUT_S)
        )
    return redis_server(data_dir, kind)


def _start_broker(data_dir: Path, choice: BrokerChoice, started: ExitStack, announce: Callable[[str], None]) -> Server:
    bootstrap = os.environ.get(BOOTSTRAP)
    if choice == "auto" and bootstrap:
        server = _named_broker(bootstrap)
    elif choice == "memory":
        server = memory_broker.memory_server(data_dir)
    elif choice == "kafka":
        server = kafka.kafka_server(data_dir, announce)
    else:
        server = _kafka_or_memory(data_dir, announce)
    started.callback(server.stop)
    server.start()
    return server


def _named_broker(bootstrap: str) -> Server:
    def await_healthy() -> str:
        broker_round_trip(Kafka.from_environment(bootstrap), timeout_s=EXTERNAL_TIMEOUT_S)
        return "Kafka"

    return Server("external", lambda: bootstrap, await_healthy=await_healthy)


def _kafka_or_memory(data_dir: Path, announce: Callable[[str], None]) -> Server:
    obstacle = kafka.why_not()
    if obstacle is None:
        try:
            return kafka.kafka_server(data_dir, announce)
        except StackError as error:
            if os.environ.get("KAFKA_HOME"):  # named, so it has to work
                raise
            obstacle = str(error)
    announce(f"no Apache Kafka: {obstacle}")
    return memory_broker.memory_server(data_dir)
