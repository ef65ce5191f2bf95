"""Read a user's log: the newest events, or exactly those that serving saw. Knows Redis; knows nothing of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt
from redis import Redis

from feature_store import functions, keys
from feature_store.config import LogConfig
from feature_store.events import decode_events
from feature_store.facts import NO_LOG, Position
from feature_store.functions import Call
from feature_store.layout import decode_generation, encode_generation


@dataclass(frozen=True, slots=True)
class LogWant:
    user: str
    length: int


@dataclass(frozen=True, slots=True)
class LogWantAsOf:
    user: str
    position: Position
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class LogSlice:
    position: Position
    events: npt.NDArray[Any]
    """[n] EVENT_DTYPE, oldest first, read-only."""


@dataclass(frozen=True, slots=True)
class LogGone:
    """The log cannot be read as of that position.

    expired      there is no log any more
    recreated    there is another one: the first expired, was forgotten, or was made larger after it had wrapped
    overwritten  newer events took the places of some that serving saw
    ahead        the log does not reach that far: Redis lost its newest events, and they are not yet read again
    """

    reason: Literal["expired", "recreated", "overwritten", "ahead"]


class UserLog:
    """The logs of all users; every method is one round trip."""

    def __init__(self, redis: Redis, config: LogConfig) -> None:
        self._redis = redis
        self._config = config

    def read(self, wants: Sequence[LogWant]) -> list[LogSlice]:
        """The newest `length` events of each, or fewer if there are fewer; an unknown user's slice is empty.

        Raises ValueError on a length above the configured one, and redis' errors.
        """
        for want in wants:
            self._check_length(want.length)
        calls = [Call("log_read", [keys.log_key(want.user)], [want.length], read_only=True) for want in wants]
        return [self._slice(*reply) for reply in functions.run(self._redis, calls, atomic=False)]

    def read_as_of(self, wants: Sequence[LogWantAsOf]) -> list[LogSlice | LogGone]:
        """Exactly what `read` gave when the log stood at that position, or why that is gone. Raises as read does."""
        for want in wants:
            self._check_length(want.length)
        calls = [
            Call(
                "log_read_as_of",
                [keys.log_key(want.user)],
                [encode_generation(want.position.generation), want.position.count, want.length],
                read_only=True,
            )
            for want in wants
            if want.position != NO_LOG
        ]
        replies = iter(functions.run(self._redis, calls, atomic=False))
        return [
            LogSlice(NO_LOG, decode_events(b"")) if want.position == NO_LOG else _as_of(want.position, next(replies))
            for want in wants
        ]

    def _check_length(self, length: int) -> None:
        if not 0 <= length <= self._config.length:
            raise ValueError(
                f"length must be in 0..{self._config.length}, got {length}; LogConfig.length is the longest tier's"
            )

    @staticmethod
    def _slice(generation: bytes, count: int, records: bytes) -> LogSlice:
        position = Position(decode_generation(generation), count) if generation else NO_LOG
        return LogSlice(position, decode_events(records))


def _as_of(position: Position, reply: list[bytes]) -> LogSlice | LogGone:
    match reply:
        case [b"", records]:
            return LogSlice(position, decode_events(records))
        case [b"expired"]:
            return LogGone("expired")
        case [b"recreated"]:
            return LogGone("recreated")
        case [b"overwritten"]:
            return LogGone("overwritten")
        case [b"ahead"]:
            return LogGone("ahead")
        case _:
            raise AssertionError(f"log_read_as_of answered {reply!r}")
