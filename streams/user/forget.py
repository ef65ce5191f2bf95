"""Forgetting a user: out of Redis at once, and what else still holds something, and until when."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis as AsyncRedis

from feature_store.forget import Forgotten, forget_user
from ranker.config import USER, ModelConfig
from ranker.inputs.hashing import hash64, salted
from router_bandit.windows import RewardWindows, WindowOptions
from streams.config.settings import Settings
from streams.errors import Refused
from streams.runtime.redis_client import PATIENT_S, check, connect
from streams.user.records import Kept, kept_records
from streams.wire.codec import decode
from streams.wire.topics import DECISIONS, TOPICS


@dataclass(frozen=True, slots=True)
class Row:
    """The row of a table that is this user's own, if it has one."""

    table: str
    key: int
    idle_steps: int | None


@dataclass(frozen=True, slots=True)
class Report:
    user: str
    redis: Forgotten
    decisions: int
    """Responses removed from the rewards worker's windows, open or remembered."""
    kafka: tuple[Kept, ...]
    rows: tuple[Row, ...]

    @property
    def was_known(self) -> bool:
        return self.redis.anything or self.decisions > 0

    def as_dict(self) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.to_builtins(self)
        made["redis"].pop("responses")
        for row, kept in zip(made["kafka"], self.kafka, strict=True):
            row["gone_ms"] = kept.gone_ms
        return made


def forget(settings: Settings, user: str, *, scan: bool) -> Report:
    """Removes the user from Redis; a second call finds nothing more.

    Raises StartError where a server does not answer.
    """
    settings.kafka.check()
    redis = connect(settings.redis_url, timeout_s=PATIENT_S)
    check(redis, settings.redis_url)
    removed = forget_user(redis, user)
    decisions = asyncio.run(_forget_decisions(settings, user, removed.responses))
    kept = kept_records(settings.kafka, user, scan=scan)
    return Report(user, removed, decisions, tuple(kept), user_rows(settings.recipe.model, user))


async def _forget_decisions(settings: Settings, user: str, responses: tuple[str, ...]) -> int:
    def of_user(payload: bytes) -> bool:
        try:
            return bool(decode(TOPICS[DECISIONS], payload).user == user)
        except Refused:
            return False

    async with AsyncRedis.from_url(settings.redis_url, socket_timeout=PATIENT_S) as redis:
        windows = RewardWindows(redis, WindowOptions())
        return await windows.forget(of_user, responses)


def user_rows(model: ModelConfig, user: str) -> tuple[Row, ...]:
    """Where the embedding tables may hold the user's id: as a key that is its hash, with a row of weights."""
    import numpy as np

    idle: Mapping[str, int | None] = {table.name: table.idle_steps for table in model.tables}
    ids = np.array([hash64(user)], np.uint64)
    return tuple(
        Row(slot.table, int(salted(ids, slot.name)[0]), idle[slot.table]) for slot in model.slots if slot.name == USER
    )
