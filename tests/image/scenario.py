"""What must be seen of the services of one image, step by step, whatever runs them."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from prometheus_client.parser import text_string_to_metric_families

from streams.kafka.connection import Kafka
from streams.local.process import tail
from tests.image.compose import Service
from tests.image.traffic import Round, committed, send_round

REQUESTS = 100
"""A round of twenty seconds: conversions are learned only beside what closed windows say was not bought."""
HEALTHY_TIMEOUT_S = 900.0
LEARNED_TIMEOUT_S = 600.0
_PAGE = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/metrics', timeout=10).read().decode())"

__all__ = ["Different", "House", "Report", "Scenario"]


class Different(Exception):
    """Something is not as it must be. Says what, with the end of the service's log."""


class House(Protocol):
    """Containers of one image; a service is created once, and may be started again after it was stopped."""

    def create(self, service: Service) -> None: ...
    def start(self, service: Service) -> None: ...
    def execute(
        self, service: Service, command: Sequence[str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]: ...
    def wait(self, service: Service, timeout_s: float) -> int: ...
    def alive(self, service: Service) -> bool: ...
    def stop(self, service: Service) -> tuple[int, float]: ...
    def log(self, service: Service) -> Path: ...


class Report:
    """Rows of the table: what was done, in how many seconds, and what was seen."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, str]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """What is appended to the list is what was seen. A row is printed as soon as it is known."""
        began, seen = time.monotonic(), list[str]()
        try:
            yield seen
        except BaseException:
            seen.append("NOT AS IT MUST BE")
            raise
        finally:
            self.rows.append((name, time.monotonic() - began, "; ".join(seen)))
            print(f"{name:<34} {self.rows[-1][1]:7.1f}  {self.rows[-1][2]}", flush=True)


class Scenario:
    """Brings the services up, has them work, stops them, and does so once more."""

    def __init__(self, house: House, services: Sequence[Service], kafka: Kafka, report: Report) -> None:
        self._house = house
        self._services = services
        self._workers = {service.name: service for service in services if not service.one_off}
        self._kafka = kafka
        self._report = report

    def run(self) -> None:
        """Raises Different, or what went wrong on the way, at the first thing that is not as it must be."""
        with self._report.step("containers") as seen:
            for service in self._services:
                self._house.create(service)
            seen.append(f"{len(self._services)}: {', '.join(service.name for service in self._services)}")
        self._start(self._services)
        with self._report.step("tiderank doctor, in the image") as seen:
            seen.append(self._doctor())
        first = self._work("first")
        before = committed(self._kafka)
        self._stop()
        self._start(list(self._workers.values()))
        second = self._work("second")
        with self._report.step("goes on where it was") as seen:
            seen.append(self._goes_on(before, first, second))
        self._stop()

    def _start(self, services: Sequence[Service]) -> None:
        for service in services:
            if service.one_off:
                with self._report.step(f"{service.name}: ends") as seen:
                    self._house.start(service)
                    status = self._house.wait(service, HEALTHY_TIMEOUT_S)
                    seen.append(f"status {status}")
                    self._must(status == 0, service, f"ended with status {status}")
        rest = [service for service in services if not service.one_off]
        for service in rest:
            self._house.start(service)
        for service in rest:
            with self._report.step(f"{service.name}: healthy") as seen:
                if again := self._await_healthy(service):
                    seen.append(f"started again {again} times")
                user = self._inside(service, "id", "-u").strip()
                seen.append(f"user {user}")
                self._must(user != "0", service, "runs as root")

    def _await_healthy(self, service: Service) -> int:
        """How often it had to be started again. As an engine does, but for how often a check may fail: it would kill
        the workers of a machine that is slow."""
        assert service.healthcheck is not None, f"{service.name} has no health check"
        end, again = time.monotonic() + HEALTHY_TIMEOUT_S, 0
        while not self._passes(service):
            self._must(time.monotonic() < end, service, f"is not healthy after {HEALTHY_TIMEOUT_S:.0f} s")
            if not self._house.alive(service):
                self._must(service.restarts, service, "ended, and is not to be started again")
                self._house.start(service)
                again += 1
            time.sleep(service.healthcheck.interval_s)
        return again

    def _passes(self, service: Service) -> bool:
        assert service.healthcheck is not None
        try:
            done = self._house.execute(service, service.healthcheck.command, service.healthcheck.timeout_s)
        except (subprocess.TimeoutExpired, RuntimeError):  # too slow, or it does not run
            return False
        return done.returncode == 0

    def _doctor(self) -> str:
        lines = self._inside(self._workers["rank"], "tiderank", "doctor").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _work(self, name: str) -> Round:
        """Requests are answered, and what is reported of them is learned, by the ranker and by the router."""
        with self._report.step(f"{name} round of requests") as seen:
            sent = send_round(self._kafka, name, REQUESTS)
            epoch, number = sent.newest
            seen.append(f"{sent.answered} of {REQUESTS} answered; weights of epoch {epoch}, update {number}")
            self._must(sent.answered == REQUESTS, self._workers["rank"], f"answered {sent.answered} of {REQUESTS}")
        with self._report.step(f"{name} round learned") as seen:
            self._await("ingest", "tiderank_examples_total", sent.clicks, kind="click", label="1")
            self._await("ingest", "tiderank_examples_total", sent.purchases, kind="conversion", label="1")
            clicks = self._await("train", "tiderank_positives_total", 1, kind="click")
            purchases = self._await("train", "tiderank_positives_total", 1, kind="conversion")
            steps = self._await("train", "tiderank_training_steps_total", 1, applied="true")
            applied = self._await("rank", "tiderank_updates_applied_total", 1)
            seen.append(
                f"{sent.clicks} clicks and {sent.purchases} conversions labelled, {clicks:.0f} and {purchases:.0f}"
            )
            seen.append(f"learned in {steps:.0f} steps, {applied:.0f} updates applied by rank")
        with self._report.step(f"{name} round's windows close") as seen:
            rewards = self._await("learn", "tiderank_router_rewards_learned_total", 1)
            seen.append(f"{rewards:.0f} rewards learned by the router")
        for service in self._workers.values():
            self._must(not self._await_healthy(service), service, "ended while it worked")
        return sent

    def _stop(self) -> None:
        for service in reversed(self._workers.values()):
            with self._report.step(f"{service.name}: stops") as seen:
                try:
                    status, took_s = self._house.stop(service)
                except subprocess.TimeoutExpired:
                    self._must(False, service, f"did not end within {service.stop_grace_s:.0f} s")
                seen.append(f"status {status} after {took_s:.1f} of {service.stop_grace_s:.0f} s")
                self._must(status == 0, service, f"ended with status {status}")

    def _goes_on(self, before: dict[str, int], first: Round, second: Round) -> str:
        """Counters of the second life tell what was read twice; every number must have grown."""
        train = self._workers["train"]
        self._must(second.newest[0] > first.newest[0], train, f"epoch {second.newest} after {first.newest}")
        self._must(second.newest[1] > first.newest[1], train, f"update {second.newest} after {first.newest}")
        for kind, count in (("click", second.clicks), ("conversion", second.purchases)):
            labelled = self._metric("ingest", "tiderank_examples_total", kind=kind, label="1")
            self._must(
                labelled == count, self._workers["ingest"], f"{labelled:.0f} {kind}s labelled, {count} were sent"
            )
        now = committed(self._kafka)
        back = {place: (offset, now.get(place)) for place, offset in before.items() if now.get(place, -1) < offset}
        self._must(not back, train, f"offsets went back: {back}")
        grown = sum(now.values()) - sum(before.values())
        weights = f"from epoch {first.newest[0]}, update {first.newest[1]} to {second.newest[0]}, {second.newest[1]}"
        return f"{weights}; {len(now)} committed offsets on by {grown}; nothing labelled twice"

    def _await(self, worker: str, metric: str, least: float, **labels: str) -> float:
        end = time.monotonic() + LEARNED_TIMEOUT_S
        while (value := self._metric(worker, metric, **labels)) < least:
            service = self._workers[worker]
            self._must(self._house.alive(service), service, "ended")
            late = f"{metric}{labels} is {value:.0f} after {LEARNED_TIMEOUT_S:.0f} s, {least:.0f} are wanted"
            self._must(time.monotonic() < end, service, late)
            time.sleep(1.0)
        return value

    def _metric(self, worker: str, name: str, **labels: str) -> float:
        service = self._workers[worker]
        page = self._inside(service, "python", "-c", _PAGE.format(port=service.environment["TIDERANK_METRICS_PORT"]))
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def _inside(self, service: Service, *command: str) -> str:
        done = self._house.execute(service, command, HEALTHY_TIMEOUT_S)
        self._must(done.returncode == 0, service, f"{' '.join(command)}: {(done.stdout + done.stderr)[-1_000:]}")
        return done.stdout

    def _must(self, holds: bool, service: Service, what: str) -> None:
        if not holds:
            log = self._house.log(service)
            raise Different(f"{service.name} {what}; the end of {log}:\n{tail(log, lines=20)}")
