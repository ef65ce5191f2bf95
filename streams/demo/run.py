"""The course of a demo: start, warm-up, measured part, draining, audit, summary."""

import json
import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from streams.audit import run_audit
from streams.config.load import load_recipe
from streams.config.settings import data_dir
from streams.demo.budget import budget_ms, tier_ms
from streams.demo.house import fresh_house
from streams.demo.observer import Observer
from streams.demo.scene import Scene
from streams.demo.screen import Screen, screen_for
from streams.demo.summary import Ending, rows, summarize_demo, view_of
from streams.demo.traffic import Traffic
from streams.errors import StreamError
from streams.local.house import WORKERS, Fallen, House
from streams.local.stack import BrokerChoice
from streams.runtime.redis_client import PATIENT_S, connect

log = logging.getLogger(__name__)

TICK_S = 0.1
WATCH_S = 0.5
LOG_SIZE_S = 5.0
DRAIN_S = 4.0
"""How long the ad system waits for answers, clicks and purchases under way at the end."""
QUIET_S = 2.0
"""Seconds without a learned example after which the last windows count as closed."""
QUIET_AT_MOST_S = 15.0
CALM_AT_MOST_S = 60.0
"""A machine that cannot answer the measured rate at once is measured as it is, not waited for without end."""

EXAMPLES_A_REQUEST = 5.5
"""The world shows 4 ads a page; the rest are conversions and their windows."""
IN_FLIGHT_S = 15.0
"""Seconds at the measured rate that add as many examples as the warm-up after the freeze, and the draining."""
MARGIN = 1.15
WARM_UP_SPEED_MAX = 5.0
"""The warm-up's rate, as a multiple of the measured one, at most: as fast as the ranker answers without a queue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    seconds: float
    rate: float
    seed: int
    warm_up_examples: int
    """Least number of examples in the warm-up, whatever the measured part needs."""

    @property
    def freeze_after(self) -> int:
        """Number of examples after which a copy is frozen: more than the demo will add afterwards."""
        added = EXAMPLES_A_REQUEST * self.rate * (self.seconds + IN_FLIGHT_S)
        return max(self.warm_up_examples, math.ceil(MARGIN * added))

    def recipe(self, budget_ms: float) -> str:
        """Returns the demo's recipe as TOML."""
        return (
            f'base = "demo"\n\n[training]\nfreeze_after = {self.freeze_after}\n\n'
            f"[routing.budget]\nbudget_ms = {budget_ms}\n"
        )


class Broken(Exception):
    """Something that the demo started has ended by itself."""

    def __init__(self, fallen: Fallen) -> None:
        super().__init__(f"{fallen.name} ended by itself")
        self.last_words = fallen.last_words.lstrip("; ")


def run_demo(plan: Plan, *, broker: BrokerChoice, data: Path | None, as_json: bool) -> int:
    """Runs the demo in `data`/demo; returns the exit status: 0, 1 if a part of it broke or the audit found something
    wrong, 130 after Ctrl-C. With `as_json` standard output has the summary alone. Raises StartError if it cannot start.
    """
    console = Console(stderr=as_json)
    home = (data or data_dir()) / "demo"
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as closing:
            summary = _run(plan, home, broker, console, closing)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    console.print()
    if console.is_terminal:
        console.print(view_of(summary, logs=home / "logs"))
    else:
        for name, sentence in rows(summary, logs=home / "logs"):
            console.print(f"  {name:<10} {sentence}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps(summary))
    if summary["exit_reason"] == "interrupted":
        return 130
    return 0 if summary["exit_reason"] == "finished" and summary["audit_ok"] is not False else 1


def _run(plan: Plan, home: Path, broker: BrokerChoice, console: Console, closing: ExitStack) -> dict[str, Any]:
    def announce(line: str) -> None:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    console.print("[bold cyan]tiderank demo[/]: starting a broker, a Redis and all workers")
    recipe = home / "demo.toml"
    house = closing.enter_context(fresh_house(home, recipe, broker=broker, announce=announce))
    _log_to(home / "logs" / "demo.log")
    alone_ms = tier_ms(load_recipe("demo"))
    recipe.write_text(plan.recipe(budget_ms(alone_ms)))
    taken = ", ".join(f"{tier} {ms:.1f} ms" for tier, ms in alone_ms.items())
    announce(f"budget: a request of 100 candidates takes {taken} here; {budget_ms(alone_ms):g} ms may be spent on one")
    redis = connect(house.stack.redis_url, timeout_s=PATIENT_S)
    closing.callback(redis.close)
    observer = Observer(house.kafka, redis)
    closing.callback(observer.close)
    house.start(*WORKERS, announce=lambda it: announce(f"{it.name}: ready, process {it.child.pid}"))
    announce(
        f"warm-up: {plan.freeze_after:,} examples, then a copy of the model is frozen; "
        f"then {plan.seconds:g} s at {plan.rate:g} requests a second"
    )
    traffic = Traffic(
        bootstrap=house.stack.bootstrap,
        seed=plan.seed,
        warm_up_rate=plan.rate,
        rate=plan.rate,
        seconds=plan.seconds,
        drain_s=DRAIN_S,
        log_path=home / "logs" / "simulate.log",
    )
    closing.callback(traffic.end)
    with screen_for(console) as screen:
        return Course(plan, house, observer, traffic, screen).run()


@contextmanager
def _phase(scene: Scene, name: Any) -> Iterator[None]:
    scene.phase, scene.progress, scene.progress_text = name, 0.0, ""
    yield
    scene.progress = 1.0


class Course:
    """The phases of one demo, each a loop around `_tick`."""

    def __init__(self, plan: Plan, house: House, observer: Observer, traffic: Traffic, screen: Screen) -> None:
        self._plan = plan
        self._house = house
        self._observer = observer
        self._traffic = traffic
        self._screen = screen
        stack = house.stack
        self._budget_ms = house.settings.recipe.routing.budget.budget_ms
        self._scene = Scene(
            house=f"{stack.broker.version} · {stack.redis.version} · {len(house.workers)} workers · seed {plan.seed}",
            logs=str(house.home / "logs"),
            budget_ms=self._budget_ms,
            part=observer.part,
        )
        self._measured_since: float | None = None
        self._answered = 0
        self._watch_due = self._second_due = self._size_due = 0.0

    def run(self) -> dict[str, Any]:
        """Returns the summary; where the demo was ended early, of what there was."""
        reason, last_words = "finished", ""
        try:
            self._warm_up()
            self._measure()
            self._drain()
        except KeyboardInterrupt:
            reason = "interrupted"
            self._end_traffic()
        except Broken as broken:
            reason, last_words = str(broken), broken.last_words
            log.error("%s; %s", reason, last_words)
        return self._sum_up(reason, last_words)

    def _warm_up(self) -> None:
        """Fills the trainer as fast as the ranker can answer, until the trainer has frozen its copy."""
        scene, needed = self._scene, self._plan.freeze_after
        with _phase(scene, "warm-up"):
            speed = 1.0
            while self._observer.frozen_after is None:
                for news in self._tick():
                    speed = self._steer(speed, news)
                scene.progress = min(1.0, self._observer.learned / needed)
                scene.progress_text = f"{self._observer.learned:,} of {needed:,} examples until a copy is frozen"
            self._traffic.tell(f"rate {self._plan.rate}")
            scene.progress_text = "a copy is frozen; the last of the warm-up is answered"
            calm, end_s = 0, time.monotonic() + CALM_AT_MOST_S
            while calm < 2 and time.monotonic() < end_s:
                calm += sum(news["waiting"] <= max(2, self._plan.rate / 4) for news in self._tick())

    def _steer(self, speed: float, news: dict[str, Any]) -> float:
        """The warm-up's next speed: slower where requests wait, faster where none do."""
        rate = self._plan.rate * speed
        if news["waiting"] > max(4.0, rate / 3):
            speed = max(0.5, 0.7 * speed)
        elif news["waiting"] <= max(2.0, rate / 10):
            speed = min(WARM_UP_SPEED_MAX, 1.3 * speed)
        self._traffic.tell(f"rate {self._plan.rate * speed}")
        return speed

    def _measure(self) -> None:
        scene, seconds = self._scene, self._plan.seconds
        self._traffic.tell("next")
        self._observer.begin_part()
        scene.series.forget_entropies()
        self._measured_since = time.monotonic()
        with _phase(scene, "measured"):
            while (elapsed := time.monotonic() - self._measured_since) < seconds and self._traffic.report is None:
                self._tick()
                scene.progress, scene.progress_text = elapsed / seconds, f"{elapsed:.0f} of {seconds:g} s"

    def _drain(self) -> None:
        """Waits until the ad system has ended and the windows of what it showed have closed."""
        with _phase(self._scene, "draining"):
            self._scene.progress_text = "the last clicks come in, the last windows close"
            deadline: float | None = None
            examples, since = -1, time.monotonic()
            while deadline is None or (time.monotonic() < deadline and time.monotonic() - since < QUIET_S):
                self._tick()
                if deadline is None and self._traffic.report is not None:
                    deadline = time.monotonic() + QUIET_AT_MOST_S
                if deadline is None or self._observer.part.examples != examples:
                    examples, since = self._observer.part.examples, time.monotonic()

    def _end_traffic(self) -> None:
        """Has the ad system stop asking, and give its last word."""
        self._scene.phase, self._scene.progress_text = "draining", "ending"
        self._traffic.tell("stop")
        deadline = time.monotonic() + DRAIN_S + 2.0
        while self._traffic.report is None and time.monotonic() < deadline:
            self._tick()

    def _sum_up(self, reason: str, last_words: str) -> dict[str, Any]:
        scene = self._scene
        lasted_s = time.monotonic() - self._measured_since if self._measured_since is not None else 0.0
        scene.phase, scene.progress, scene.progress_text = "audit", 0.3, "every id on the topics is accounted for"
        self._screen.show(scene)
        audit = self._audit()  # while the workers run: it waits for what they have still to do
        scene.progress, scene.progress_text = 0.6, "workers end with all they hold delivered"
        self._screen.show(scene)
        self._house.stop_workers()
        self._observer.finish()
        self._observer.measure_log()
        scene.second(self._observer, _now_ms())
        self._screen.show(scene)
        report, counts = self._traffic.report, self._traffic.progress
        if report is not None:
            counts = report["measured"] if self._measured_since is not None else report["before"][-1]
        return summarize_demo(
            self._observer,
            self._observer.part,
            Ending(
                reason=reason,
                last_words=last_words,
                measured=self._measured_since is not None,
                seconds=counts.get("seconds") or lasted_s,
                traffic=counts,
                drift=report["click_logit_correlation_per_minute"] if report is not None else None,
                budget_ms=self._budget_ms,
                audit=audit,
            ),
        )

    def _audit(self) -> Any | None:
        try:
            return run_audit(self._house.settings)
        except StreamError:
            log.exception("the audit could not be done")
            return None

    def _tick(self) -> list[dict[str, Any]]:
        """Looks at everything once, shows it, and waits a moment. Returns the ad system's news.

        Raises Broken where a process has ended by itself.
        """
        now = time.monotonic()
        self._observer.poll()
        every = self._traffic.poll()
        for news in every:
            self._take_news(news)
        if now >= self._watch_due:
            self._watch_due = now + WATCH_S
            self._watch()
        if now >= self._size_due:
            self._size_due = now + LOG_SIZE_S
            self._observer.measure_log()
        if now >= self._second_due:
            self._second_due = now + 1.0
            self._scene.second(self._observer, _now_ms())
        self._screen.show(self._scene)
        time.sleep(TICK_S)
        return every

    def _take_news(self, news: dict[str, Any]) -> None:
        scene = self._scene
        if news["phase"] != scene.traffic.get("phase"):
            self._answered = 0
        scene.series.add_traffic(news, news["responses"] - self._answered)
        self._answered, scene.traffic = news["responses"], news

    def _watch(self) -> None:
        fallen = self._house.fallen()
        if fallen is not None:
            raise Broken(fallen)
        if self._traffic.died():
            raise Broken(Fallen("the simulated ad system", "", self._traffic.last_words()))


def _log_to(path: Path) -> None:
    """Our own log lines go to a file: the terminal is the view's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=path, level=logging.INFO, format="%(asctime)s %(levelname)s demo %(message)s")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
