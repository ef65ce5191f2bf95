"""One event time for several readers. Knows Redis; knows nothing of Kafka.

Each reader closes windows of users whose events another one reads. So none may go further than the slowest of them:
each tells the others how far it is, and all take the least.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

from redis import Redis

CLOCKS = b"ingest:clocks"
"""Hash: reader → "beat:now_ms:closed_ms:place:readers"."""


@dataclass(frozen=True, slots=True)
class Agreement:
    now_ms: int
    """What every reader has reached."""
    place: int
    readers: int
    """This reader is number `place` of `readers`, by name: work that one should do goes by these."""
    closed_ms: int = 0
    """All windows that end before it have been closed, each by the reader whose work that was. 0 while their readers do
    not agree on whose that is."""

    @property
    def part(self) -> tuple[int, int]:
        return self.place, self.readers


class SharedClock:
    """A reader's part in it. A reader that has said nothing for `silent_s` no longer counts."""

    def __init__(self, redis: Redis, name: str, *, silent_s: float = 10.0) -> None:
        self._redis = redis
        self._name = name.encode()
        self._silent_s = silent_s
        self._beat = 0
        # Whether another one lives is told by its beat moving, not by any clock of its machine.
        self._heard: dict[bytes, tuple[bytes, float]] = {}

    def agree(self, now_ms: int, closed_ms: int = 0, part: tuple[int, int] = (0, 0)) -> Agreement:
        """Says how far this reader is, and how far it has closed the windows of its part; returns what all have. One
        round trip.

        It goes back where one of them does, who has to read something again. Raises redis' errors.
        """
        self._beat += 1
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(CLOCKS, self._name, b"%d:%d:%d:%d:%d" % (self._beat, now_ms, closed_ms, *part))
            pipe.hgetall(CLOCKS)
            clocks: dict[bytes, bytes] = pipe.execute()[1]
        at = time.monotonic()
        for name, words in clocks.items():
            if self._heard.get(name, (None, 0.0))[0] != words:
                self._heard[name] = (words, at)
        silent = [name for name in clocks if at - self._heard[name][1] > self._silent_s and name != self._name]
        if silent:
            self._redis.hdel(CLOCKS, *silent)
        live = sorted(clocks.keys() - set(silent))
        said = [_said(clocks[name]) for name in live]
        return Agreement(min(one.now_ms for one in said), live.index(self._name), len(live), _closed_ms(said))


def closed_ms(clocks: Mapping[bytes | str, bytes | str]) -> int:
    """As in Agreement, for who only looks on; 0 where there is no reader. clocks: what is in CLOCKS, as bytes.

    A reader that has died counts until the others notice: then all stands still, and nothing is said too early.
    """
    return _closed_ms([_said(cast(bytes, words)) for words in clocks.values()])


class _Said(NamedTuple):
    now_ms: int = 0
    closed_ms: int = 0
    place: int = 0
    readers: int = 0


def _said(words: bytes) -> _Said:
    """What is not one of ours holds all, until its silence shows that nobody says it."""
    try:
        return _Said(*map(int, words.split(b":")[1:5]))
    except ValueError:
        return _Said()


def _closed_ms(said: Collection[_Said]) -> int:
    whole = sorted((one.place, one.readers) for one in said) == [(n, len(said)) for n in range(len(said))]
    return min((one.closed_ms for one in said), default=0) if whole else 0
