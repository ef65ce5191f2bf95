"""A running house for the end-to-end tests: a local stack with real workers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.lab.house import QUICK
from streams.client import RankingClient
from streams.local.house import House, open_house
from streams.local.kafka import why_not
from streams.local.stack import BrokerChoice

__all__ = ["RECIPE", "House", "await_model", "check_alive", "running"]

RECIPE = QUICK + "[training]\nsnapshot_s = 5.0\n"


@contextmanager
def running(
    home: Path, workers: Sequence[str], *, broker: BrokerChoice | None = None, recipe: str = RECIPE
) -> Iterator[House]:
    """broker: by default a real Kafka where it can run, else the in-memory one, and that is said."""
    obstacle = why_not()
    choice: BrokerChoice = broker or ("memory" if obstacle else "kafka")
    if broker is None and obstacle:
        print(f"on the in-memory broker: {obstacle}")
    path = home / "recipe.toml"
    path.write_text(recipe)
    with open_house(home / "data", recipe=str(path), workers=workers, broker=choice) as house:
        if {"rank", "train"} <= set(workers):
            await_model(house)
        yield house


def await_model(house: House) -> None:
    """Returns once a request is scored."""
    with RankingClient(house.kafka) as client:
        client.await_model()


def check_alive(house: House) -> None:
    """Fails where a server or a worker has ended."""
    fallen = house.fallen()
    assert fallen is None, "".join(fallen)
