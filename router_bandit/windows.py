"""Reward windows in Redis: decisions wait there for what their responses earn. Knows Redis; knows nothing of Kafka.

Windows run in event time: a decision's window closes `window_ms` after its own time, on the clock `sweep` is given.
The state of a response is one hash, changed by server-side functions only (windows.lua draws it); all keys share one
hash tag, so that a batch is one call, also on a Redis Cluster. Beside the windows stand the positions of their sources:
who finds others than it left there knows that Redis has forgotten, before anything is closed or taken in.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

MINUTE_MS = 60_000
MAX_ID = 128
"""Characters that an id may have on the wire."""

Place = tuple[str, int]
"""Topic and partition."""

NOWHERE: Mapping[Any, Any] = MappingProxyType({})

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

    @property
    def places_key(self) -> str:
        return f"{self.prefix}at"

    @property
    def topics_key(self) -> str:
        """Hash: topic → the id that it had when its places were written."""
        return f"{self.prefix}topics"


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
class Delivered:
    """A reward as it stands on its topic. Raises ValueError where a number is not finite."""

    decision: DecisionFact
    reward_id: str
    earned: float
    outcomes: int
    late: bool

    def __post_init__(self) -> None:
        _check_finite("cost_ms", self.decision.cost_ms, self.decision.response_id)
        _check_finite("earned", self.earned, self.reward_id)

    @property
    def outcome_id(self) -> str | None:
        """Id of a late reward's outcome, None where the reward's id no longer says it; "" for a window's own reward."""
        response, _, outcome = self.reward_id.partition(f"{self.decision.response_id}:")
        return "" if not self.late else outcome if not response and outcome else None


class Forgotten(Exception):
    """Redis does not stand where it was left: it came back empty, or with what it knew earlier."""

    def __init__(self) -> None:
        super().__init__("Redis does not stand where it was left; what it lacks is to be read again")


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

    def __init__(self, redis: Redis, options: WindowOptions) -> None:
        """redis: an asyncio client that returns bytes."""
        self._redis = redis
        self._options = options

    async def places(self) -> dict[Place, int]:
        """Returns, for each source that something was taken from, the offset after the last record in the windows."""
        return to_places(cast(dict[bytes, bytes], await self._redis.hgetall(self._options.places_key)))

    async def take(
        self,
        decisions: Sequence[DecisionFact],
        outcomes: Sequence[OutcomeFact],
        moves: Mapping[Place, tuple[int, int]] = NOWHERE,
    ) -> tuple[Word, ...]:
        """Take in a batch. An outcome may come before its decision; known ids change nothing.

        Args:
            moves: of its sources, where they stood when this process last moved or found them (0: nowhere), and where
                they stand with the batch.

        Returns what became of the decisions, then of the outcomes, in their order. With nothing taken, raises Forgotten
        if Redis knows other places, and ValueError if a number is not finite.
        """
        arguments: list[str | bytes | int] = [1000 * self._options.state_ttl_s, len(decisions), len(moves)]
        for place, (before, after) in moves.items():
            arguments += [_name(place), before, after]
        for d in decisions:
            arguments += [d.response_id, d.event_ms + self._options.window_ms, d.payload, _about(d)]
        for o in outcomes:
            _check_finite("value", o.value, o.outcome_id)
            arguments += [o.response_id, o.outcome_id, o.event_ms, repr(o.value)]
        words = await self._call("rw_take", arguments)
        if words is None:
            raise Forgotten
        return tuple(cast(Word, word.decode()) for word in words)

    async def sweep(self, now_ms: int, limit: int, places: Mapping[Place, int] = NOWHERE) -> Swept:
        """Close windows that were due by `now_ms`, and collect late outcomes: at most `limit` responses of each.

        What is returned stays, and is returned again with the same content, until it is settled. Raises Forgotten, with
        nothing closed, if the sources do not stand at `places` (0: nowhere).
        """
        arguments: list[str | bytes | int] = [now_ms, limit, len(places)]
        for place, offset in places.items():
            arguments += [_name(place), offset]
        swept = await self._call("rw_sweep", arguments)
        if swept is None:
            raise Forgotten
        due, late, gone = swept
        closed = [_window(*each) for each in due]
        for each in late:
            closed += _late_outcomes(*each)
        return Swept(tuple(closed), gone)

    async def settle(self, closed: Sequence[Closed], delivered: Mapping[Place, int] = NOWHERE) -> int:
        """These rewards are delivered: count them into their minute, once. Returns how many were not settled before.

        delivered: by place they were delivered to, the offset after them.
        """
        arguments: list[str | bytes | int] = [1000 * self._options.aggregate_ttl_s, len(delivered)]
        for place, offset in delivered.items():
            arguments += [_name(place), offset]
        for c in closed:
            arguments += [c.response_id, c.outcome_id or "", repr(c.earned)]
        return int(await self._call("rw_settle", arguments)) if closed else 0

    async def restore(self, rewards: Sequence[Delivered], read: Mapping[Place, int] = NOWHERE) -> int:
        """Tell of rewards that their topic has: these windows have closed, with these outcomes, and are settled.

        What Redis knows better changes nothing. A window's first outcomes are those that its reward counts, as they are
        read again in the order in which they were read first. Returns how many were not known.

        read: where the topic's partitions stand after these rewards.
        """
        ttl_ms = (1000 * self._options.state_ttl_s, 1000 * self._options.aggregate_ttl_s)
        arguments: list[str | bytes | int] = [*ttl_ms, len(read)]
        for place, offset in read.items():
            arguments += [_name(place), offset]
        for r in rewards:
            if r.outcome_id is not None:  # else it is delivered again, with the same id
                d = r.decision
                arguments += [d.response_id, d.event_ms + self._options.window_ms, d.payload, _about(d)]
                arguments += [r.outcome_id, repr(r.earned), r.outcomes]
        return int(await self._call("rw_restore", arguments))

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


def to_places(stored: Mapping[bytes, bytes]) -> dict[Place, int]:
    """What the hash of source positions says."""
    names = {name.decode().rpartition(":"): int(offset) for name, offset in stored.items()}
    return {(topic, int(partition)): offset for (topic, _, partition), offset in names.items()}


def _name(place: Place) -> str:
    return f"{place[0]}:{place[1]}"


def _about(d: DecisionFact) -> str:
    _check_finite("cost_ms", d.cost_ms, d.response_id)
    return f"{d.event_ms // MINUTE_MS}|{d.cost_ms!r}|{int(d.forced)}|{d.plan}"


def _check_finite(what: str, number: float, whose: str) -> None:
    if not math.isfinite(number):
        raise ValueError(f"{what} of {whose!r} must be finite, got {number}")
