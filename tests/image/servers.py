"""Kafka and Redis as the compose file sets them up, in the place of their own images."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streams.kafka.connection import Kafka
from streams.local.health import broker_round_trip
from streams.local.kafka import find_java, libraries
from streams.local.process import Child, listening
from streams.local.redis import redis_server

_JVM = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.apache.logging.log4j.level=WARN")
_START_TIMEOUT_S = 900.0

__all__ = ["address_on_host", "both", "broker_properties", "redis_options"]


def address_on_host(compose: Mapping[str, Any], service: str) -> str:
    """The one address that the compose file publishes for it."""
    ((address, port),) = [entry.rsplit(":", 2)[:2] for entry in compose["services"][service]["ports"]]
    return f"{address}:{port}"


@contextmanager
def both(compose: Mapping[str, Any], home: Path, gateway: str) -> Iterator[None]:
    """They are at the published addresses, and for the services at `gateway` with the ports inside."""
    redis = redis_server(
        home, options=redis_options(compose, gateway), url=f"redis://{address_on_host(compose, 'redis')}/0"
    )
    kafka = _broker(compose, home)
    try:
        redis.start()
        kafka.start()
        bootstrap = address_on_host(compose, "kafka")
        kafka.wait_for(lambda: listening(int(bootstrap.rpartition(":")[2])), _START_TIMEOUT_S)
        broker_round_trip(Kafka(bootstrap, {}), timeout_s=_START_TIMEOUT_S)
        yield
    finally:
        kafka.stop()
        redis.stop()


def redis_options(compose: Mapping[str, Any], gateway: str) -> dict[str, str]:
    words = compose["services"]["redis"]["command"][1:]
    given = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    address, _, port = address_on_host(compose, "redis").rpartition(":")
    # As in the official image: open to the network that it is in.
    return {**given, "port": port, "bind": f"{address} {gateway}", "protected-mode": "no"}


def _broker(compose: Mapping[str, Any], home: Path) -> Child:
    java = find_java()
    if java is None:
        raise RuntimeError("Kafka needs Java; Debian: apt-get install --no-install-recommends openjdk-17-jre-headless")
    settings = compose["services"]["kafka"]["environment"]
    data = home / "kafka"
    data.mkdir(parents=True)
    properties = data / "server.properties"
    lines = broker_properties(settings) | {"log.dirs": str(data / "log")}
    properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    run = [java[0], *_JVM, "-cp", f"{libraries(print)}/*"]
    command = [*run, "kafka.tools.StorageTool", "format", "-t", settings["CLUSTER_ID"], "-c", str(properties)]
    subprocess.run(command, check=True, capture_output=True, timeout=_START_TIMEOUT_S)
    return Child("kafka", [*run, "kafka.Kafka", str(properties)], home=home)


def broker_properties(environment: Mapping[str, Any]) -> dict[str, str]:
    """What Kafka's image makes of its environment: KAFKA_NODE_ID is node.id."""
    named = {name.removeprefix("KAFKA_"): value for name, value in environment.items() if name.startswith("KAFKA_")}
    return {name.lower().replace("_", "."): str(value) for name, value in named.items()}
