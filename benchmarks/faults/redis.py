"""A Redis that comes back with less than it had, and one that takes nothing.

Each fault returns whether serving suffers.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from benchmarks.faults.target import Target
from streams.runtime.redis_client import connect

REFUSALS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "full": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        "read-only": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),  # of a master that never answers, so all stays
    }
)
"""What makes it refuse writes and answer reads, and what ends that."""


def empty(target: Target) -> bool:
    """Its disk is replaced by an empty one, while ingest is restarted too."""
    _come_back_with(target, None)
    return True


def restore(target: Target) -> bool:
    """Its file is replaced by one that is some seconds older, while ingest is restarted too."""
    copy = target.house.home / "redis-before"
    shutil.copytree(_data(target), copy)  # cut in mid-record, at worst: then it is loaded without that record
    target.tend(target.rng.uniform(3.0, 8.0))
    _come_back_with(target, copy)
    return True


def refuse_writes(target: Target, how: str) -> bool:
    begin, end = REFUSALS[how]
    redis = connect(target.house.stack.redis_url)
    redis.execute_command(*begin.split())  # type: ignore[no-untyped-call]
    target.tend(target.rng.uniform(2.0, 6.0))
    redis.execute_command(*end.split())  # type: ignore[no-untyped-call]
    return False


def _come_back_with(target: Target, data: Path | None) -> None:
    redis = target.house.stack.redis
    target.kill("ingest")
    redis.kill()
    shutil.rmtree(_data(target))
    if data is None:
        _data(target).mkdir()
    else:
        data.rename(_data(target))
    redis.restart()
    target.bring_back("ingest")


def _data(target: Target) -> Path:
    return target.house.home / "redis"
