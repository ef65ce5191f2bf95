"""A load run from its preparation to its rows: logs filled, a model that answers, a warm-up, then rate after rate."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from feature_store.log import UserLog
from streams.client import RankingClient
from streams.config.settings import Settings
from streams.kafka.connection import Kafka
from streams.load.backlog import Backlog
from streams.load.fill import fill_logs, log_counts
from streams.load.measure import LoadOptions, Row, measure
from streams.load.search import Sustained, find_max
from streams.runtime.redis_client import PATIENT_S, check, connect
from streams.simulate.world import World

Say = Callable[[str], None]


class Load:
    """Makes rows, one rate after another, with the same users and options."""

    def __init__(
        self,
        kafka: Kafka,
        client: RankingClient,
        world: World,
        user_log: UserLog,
        options: LoadOptions,
        prefix: str,
        say: Say,
    ) -> None:
        self._kafka = kafka
        self._client = client
        self._world = world
        self._user_log = user_log
        self._options = options
        self._prefix = prefix
        self._say = say
        self._runs = 0

    def measure(self, rate: float, *, seconds: float | None = None) -> Row:
        """Raises as `measure.measure` does. seconds: of this row, where not those of the options."""
        self._runs += 1
        options = self._options if seconds is None else replace(self._options, seconds=seconds)
        backlog = Backlog(self._kafka)
        row = measure(self._client, self._world, rate, options, prefix=f"{self._prefix}-{self._runs}")
        row.behind_s = backlog.behind_s(options.seconds)
        return row

    def measure_all(self, rates: Sequence[float]) -> list[Row]:
        """A row for each rate, in that order."""
        rows = []
        for rate in rates:
            rows.append(self.measure(rate))
            p50, p99 = (rows[-1].latency.percentile(percent) or 0.0 for percent in (50, 99))
            self._say(f"{rate:g}/s: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        return rows

    def find_max(self, start: float, sustained: Sustained) -> tuple[float | None, list[Row]]:
        """The highest sustained rate, None if none is, and a row for every rate that was tried."""
        rows: list[Row] = []

        def holds(rate: float) -> bool:
            rows.append(self.measure(rate))
            why_not = sustained.why_not(rows[-1])
            self._say(f"{rate:g}/s: {why_not or 'sustained'}")
            return why_not is None

        return find_max(holds, start), rows

    def log_lengths(self) -> tuple[int, int]:
        """The fewest and the most events that a user's log has taken."""
        counts = log_counts(self._user_log, self._world.user_ids)
        return min(counts), max(counts)


@contextmanager
def prepared_load(
    settings: Settings, options: LoadOptions, *, log_length: int, warm_up: tuple[float, float] | None, say: Say
) -> Iterator[Load]:
    """Fills the users' logs, waits for a model, and warms up: (requests a second, seconds).

    Raises ValueError on a log length beyond what the recipe keeps, StreamError where broker, Redis or a worker is away.
    """
    kafka, recipe = settings.kafka, settings.recipe
    kafka.check()
    redis = connect(settings.redis_url, timeout_s=PATIENT_S)
    check(redis, settings.redis_url)
    user_log, world = UserLog(redis, recipe.log), options.world()
    prefix = f"load-{time.time_ns() // 1_000_000:x}"

    def tell(done: int, total: int) -> None:
        say(f"user logs: {done} of {total} events stored")

    began_s = time.monotonic()
    filled = fill_logs(kafka, user_log, recipe.log, world, log_length, prefix=prefix, tell=tell)
    took_s = time.monotonic() - began_s
    say(f"user logs: {len(world.user_ids)} of {log_length} events, read back; {filled} came by Kafka in {took_s:.1f} s")
    with RankingClient(kafka) as client:
        client.await_model(prefix=f"{prefix}-first")
        load = Load(kafka, client, world, user_log, options, prefix, say)
        if warm_up is not None:
            rate, seconds = warm_up
            say(f"warm-up: {rate:g}/s for {seconds:g} s")
            load.measure(rate, seconds=seconds)
        yield load
