"""The in-memory broker that is built into librdkafka, in a child process: a first look without Java."""

import sys
import threading
from pathlib import Path

from confluent_kafka import Producer, libversion

from streams.kafka.connection import Kafka
from streams.local.health import broker_round_trip
from streams.local.process import Child
from streams.local.server import Server

LIMITS = (
    "in-memory broker: everything is gone with its process; 5 MB are kept per partition, the oldest fall out unsaid;",
    "records carry the client's time, messages stay under 1 MB, joining a group takes 3-5 s. For a first look only.",
)
START_TIMEOUT_S = 20.0


def memory_server(home: Path) -> Server:
    """A broker without data or a port of its own choosing, ready to start."""
    address = home / "run" / "memory-broker.address"
    child = Child("memory-broker", [sys.executable, "-m", __name__, str(address)], home=home)

    address.unlink(missing_ok=True)  # of an earlier run

    def await_healthy() -> str:
        child.wait_for(address.exists, START_TIMEOUT_S)
        broker_round_trip(Kafka(address.read_text(), {}), timeout_s=START_TIMEOUT_S)
        return f"librdkafka {libversion()[0]} in-memory broker"

    return Server(
        "memory",
        address.read_text,
        await_healthy=await_healthy,
        child=child,
        no_restart="the in-memory broker cannot be restarted: its records are gone, and its port is not ours to choose",
    )


def serve(address: Path) -> None:
    """Runs the broker in this process until a signal ends it; writes its address, whole, once it can be called."""
    # The broker lives inside a client; the address given is unused. It listens on loopback only.
    client = Producer({"bootstrap.servers": "ignored", "test.mock.num.brokers": 1, "log_level": 3})
    broker = next(iter(client.list_topics(timeout=START_TIMEOUT_S).brokers.values()))
    partial = address.with_suffix(".partial")
    partial.write_text(f"{broker.host}:{broker.port}")
    partial.rename(address)
    threading.Event().wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
