"""A simulated ad system that falls silent when it is told to, and comes back as another one, with a new client."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.lab.house import Traffic, traffic
from benchmarks.lab.judging import PATIENCE_S
from streams.kafka.connection import Kafka
from streams.simulate.config import WorldConfig


class AdSystem:
    def __init__(self, kafka: Kafka, rate: float, *, seed: int, world: WorldConfig) -> None:
        """rate: requests a second."""
        self._kafka = kafka
        self._rate = rate
        self._seed = seed
        self._world = world
        self._runs: list[Traffic] = []
        self._running = ExitStack()

    def start(self) -> None:
        number = len(self._runs) + 1
        asking = traffic(
            self._kafka,
            self._rate,
            seed=self._seed + number,
            world=self._world,
            prefix=f"chaos{number}",
            drain_s=PATIENCE_S,
        )
        self._runs.append(self._running.enter_context(asking))

    def stop(self) -> None:
        """Returns once all is answered and all that its users still do has been sent and acknowledged."""
        self._running.close()

    @contextmanager
    def silent(self) -> Iterator[None]:
        self.stop()
        yield
        self.start()

    def sent_events(self) -> int | None:
        """Different ones, of all runs; None where one of them did not get all out."""
        reports = [run.report for run in self._runs]
        if any(report is None or report.delivery_errors or report.unsent_events for report in reports):
            return None
        return sum(len(report.event_ids) for report in reports if report is not None)
