"""Reward windows in Redis: decisions wait there for what their responses earn. Knows Redis; knows nothing of Kafka.

Windows run in event time: a decision's window closes `window_ms` after its own time, on the clock `sweep` is given.
The state of a response is one hash, changed by server-side functions only (windows.lua draws it); all keys share one
hash tag, so that a batch is one call, also on a Redis Cluster.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any, Literal, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

MINUTE_MS = 60_000
MAX_ID = 128
"""Characters that an id may have on the wire."""

Word = Literal["decision", "matched", "early", "late", "duplicate"]
"""What became of an item: a decision opened its window; an outcome met its decision, or came before it, or after its
window had closed; either was known already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowOptions:
    window_ms: int = 60_000
    """An outcome earlier than this after its decision, in event time, belongs to its reward."""
    state_ttl_s: int = 2 * 86_400
    """How long a response is known, by the wall clock: duplicates and late outcomes are recognized until then."""
    aggregate_ttl_s: int = 7 * 86_400
    namespace: str = "main"

    def __post_init__(self) -> None:
        if min(self.window_ms, self.state_ttl_s, self.aggregate_ttl_s) <= 0:
            raise ValueError(f"all times must be > 0, got {self}")
        if not self.namespace or set("{}") & set(self.namespace):
            raise ValueError(f"namespace must be a word without braces, got {self.namespace!r}")

    @property
    def prefix(self) -> str:
        return f"rw:{{{self.namespace}}}:"


@dataclass(frozen=True, slots=True)
class DecisionFact:
    response_id: str
    event_ms: int
    plan: str
    cost_ms: float
    forced: bool
    payload: bytes
    """Handed back as it is when the window closes."""


@dataclass(frozen=True, slots=True)
class OutcomeFact:
    outcome_id: str
    response_id: str
    event_ms: int
    value: float


@dataclass(frozen=True, slots=True)
class Closed:
    """A reward: of a window that has closed, or of one outcome that came after."""

    response_id: str
    outcome_id: str | None
    """None: the window's own."""
    payload: bytes
    earned: float
    outcomes: int

    @property
    def late(self) -> bool:
        return self.outcome_id is not None

    @property
    def reward_id(self) -> str:
        """The response's id, or that and the late outcome's: the same at every sweep."""
        if self.outcome_id is None:
            return self.response_id
        both = f"{self.response_id}:{self.outcome_id}"
        return both if len(both) <= MAX_ID else blake2b(both.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Taken:
    words: tuple[Word, ...]
    """Of the decisions, then of the outcomes, in their order."""
    calls: int
    """How often this caller has called `take`, by Redis' account: one less than was called, and Redis lost some."""


@dataclass(frozen=True, slots=True)
class Swept:
    closed: tuple[Closed, ...]
    gone: int
    """Windows whose decision's time to live ended before they were swept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanMinute:
    """What one plan did with the decisions of one minute, as far as their windows have closed."""

    minute_ms: int
    plan: str
    responses: int
    forced: int
    late: int
    cost_ms: float
    earned: float


class RewardWindows:
    """All calls are one round trip, and change nothing when they are repeated."""

    def __init__(self, redis: Redis, options: WindowOptions, *, caller: str) -> None:
        """
        Args:
            redis: an asyncio client that returns bytes.
            caller: who counts the calls of `take`; each process its own.
        """
        self._redis = redis
        self._options = options
        self._caller = caller

    async def take(self, decisions: Sequence[DecisionFact], outcomes: Sequence[OutcomeFact]) -> Taken:
        """Take in a batch. An outcome may come before its decision; known ids change nothing.

        Raises ValueError, with nothing taken, if a number is not finite.
        """
        arguments: list[str | bytes | int] = [1000 * self._options.state_ttl_s, self._caller, len(decisions)]
        for d in decisions:
            _check_finite("cost_ms", d.cost_ms, d.response_id)
            about = f"{d.event_ms // MINUTE_MS}|{d.cost_ms!r}|{int(d.forced)}|{d.plan}"
            arguments += [d.response_id, d.event_ms + self._options.window_ms, d.payload, about]
        for o in outcomes:
            _check_finite("value", o.value, o.outcome_id)
            arguments += [o.response_id, o.outcome_id, o.event_ms, repr(o.value)]
        calls, *words = await self._call("rw_take", arguments)
        return Taken(tuple(cast(Word, word.decode()) for word in words), calls)

    async def calls(self) -> int:
        """How often `take` was called by this caller, as Redis knows."""
        return int(await self._redis.hget(f"{self._options.prefix}calls", self._caller) or 0)

    async def sweep(self, now_ms: int, limit: int) -> Swept:
        """Close windows that were due by `now_ms`, and collect late outcomes: at most `limit` responses of each.

        What is returned stays, and is returned again with the same content, until it is settled.
        """
        due, late, gone = await self._call("rw_sweep", [now_ms, limit])
        closed = [_window(*each) for each in due]
        for each in late:
            closed += _late_outcomes(*each)
        return Swept(tuple(closed), gone)

    async def settle(self, closed: Sequence[Closed]) -> int:
        """These rewards are delivered: count them into their minute, once. Returns how many were not settled before."""
        arguments: list[str | bytes | int] = [1000 * self._options.aggregate_ttl_s]
        for c in closed:
            arguments += [c.response_id, c.outcome_id or "", repr(c.earned)]
        return int(await self._call("rw_settle", arguments)) if closed else 0

    async def forget(self, of_user: Callable[[bytes], bool], responses: Collection[str] = ()) -> int:
        """Remove responses, settled or not: those whose payload is the user's, and `responses`. Looks at all there are.

        Returns how many there were. The aggregates stay: they are sums by plan.
        """
        found = set(responses)
        start = f"{self._options.prefix}r:"
        batch: list[bytes] = []
        async for key in self._redis.scan_iter(match=start + "*", count=1000):
            batch.append(key)
            if len(batch) == 1000:
                found |= await self._of_user(batch, len(start), of_user)
                batch.clear()
        found |= await self._of_user(batch, len(start), of_user)
        names = sorted(found)
        parts = [names[at : at + 1000] for at in range(0, len(names), 1000)]
        return sum([int(await self._call("rw_forget", part)) for part in parts])

    async def _of_user(self, keys: Sequence[bytes], prefix: int, of_user: Callable[[bytes], bool]) -> set[str]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hget(key, "d")
            payloads = await pipe.execute()
        pairs = zip(keys, payloads, strict=True)
        return {key[prefix:].decode() for key, payload in pairs if payload is not None and of_user(payload)}

    async def waiting(self) -> int:
        """Decisions whose window is not settled."""
        return int(await self._redis.zcard(f"{self._options.prefix}due"))

    async def aggregates(self, from_ms: int, to_ms: int) -> list[PlanMinute]:
        """What each plan did in the minutes that begin in [from_ms, to_ms), by minute and plan."""
        minutes = range(-(-from_ms // MINUTE_MS), -(-to_ms // MINUTE_MS))
        async with self._redis.pipeline(transaction=False) as pipe:
            for minute in minutes:
                pipe.hgetall(f"{self._options.prefix}m:{minute}")
            found = await pipe.execute()
        return [row for minute, fields in zip(minutes, found, strict=True) for row in _plan_minutes(minute, fields)]

    async def _call(self, function: str, arguments: Sequence[str | bytes | int]) -> Any:
        source, version = _library()
        name, keys = f"{function}_{version}", [f"{self._options.prefix}due", self._options.prefix]
        try:
            return await self._redis.fcall(name, 1, *keys, *arguments)
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise
        # A new server, or one that was flushed. The version in its name keeps the library of another release.
        await self._redis.function_load(source, replace=True)
        return await self._redis.fcall(name, 1, *keys, *arguments)


@cache
def _library() -> tuple[str, str]:
    """The library's source and version; the version is a digest of the source and part of every name in it."""
    source = files("router_bandit").joinpath("windows.lua").read_text()
    version = blake2b(source.encode(), digest_size=4).hexdigest()
    return source.replace("VERSION", version), version


def _window(response_id: bytes, payload: bytes, outcomes: list[bytes]) -> Closed:
    values = [float(value) for value in outcomes[1::2]]
    return Closed(response_id.decode(), None, payload, math.fsum(values), len(values))


def _late_outcomes(response_id: bytes, payload: bytes, outcomes: list[bytes]) -> list[Closed]:
    pairs = sorted(zip(outcomes[::2], outcomes[1::2], strict=True))
    return [Closed(response_id.decode(), name.decode(), payload, float(value), 1) for name, value in pairs]


def _plan_minutes(minute: int, fields: Mapping[bytes, bytes]) -> list[PlanMinute]:
    rows: dict[str, dict[str, float]] = {}
    for field, value in fields.items():
        what, plan = field.decode().split(":", 1)
        rows.setdefault(plan, {})[what] = float(value)
    return [
        PlanMinute(
            minute_ms=minute * MINUTE_MS,
            plan=plan,
            responses=int(row.get("responses", 0)),
            forced=int(row.get("forced", 0)),
            late=int(row.get("late", 0)),
            cost_ms=row.get("cost_ms", 0.0),
            earned=row.get("earned", 0.0),
        )
        for plan, row in sorted(rows.items())
    ]


def _check_finite(what: str, number: float, whose: str) -> None:
    if not math.isfinite(number):
        raise ValueError(f"{what} of {whose!r} must be finite, got {number}")
