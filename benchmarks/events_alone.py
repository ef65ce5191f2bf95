"""How fast are events taken in, and paid for, when nobody waits for anybody?

    python -m benchmarks.events_alone [--pages 40000] [--recipe tiers]

Pages that wait on the topics: what was served (as ranking wrote it a moment before), four looks at it, and a click on
every tenth. In turns over the same records, alone on the machine: `plain`, a join as one writes it in an afternoon
(benchmarks/lab/plain_join.py); `ingest`; then `rewards`, over as many decisions and what ingest made of the clicks.
From the first tenth of the records to the last: records a second, and processor time of every process a record. 185,000
pages are a million records.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.house import by_process, cpu_of, phases_of
from benchmarks.lab.plain_join import GROUP as PLAIN
from benchmarks.lab.waiting import put_pages
from streams.kafka.connection import Kafka
from streams.kafka.scan import committed, ends, read_topic
from streams.load.measure import LoadOptions
from streams.load.run import prepared_load
from streams.local.house import WORKERS, House, private_house
from streams.local.process import Child
from streams.machine import this_machine
from streams.wire.codec import decode
from streams.wire.topics import CONVERSIONS, DECISIONS, GROUPS, IMPRESSIONS, OUTCOMES, SERVED, TOPICS

_EVENTS = (SERVED, IMPRESSIONS, CONVERSIONS)
_WARM_UP = 10.0, 10.0
_PATIENCE_S = 600.0
CLICK_WINDOW_MS = 1_500
_WINDOWS = f"""
[join]
click_window_ms = {CLICK_WINDOW_MS}
attribution_window_ms = 4000
early_ms = 4000
[routing]
reward_window_ms = 3000
"""
"""As short as in the tests: else none would close in the minutes that the events are of."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Figures of the records behind the first tenth."""

    records: int
    seconds: float
    microseconds: dict[str, float]
    """Processor time a record, by process."""
    phases: dict[str, float]
    """The same of the worker's own thread, by phase of its loop."""

    @property
    def rate(self) -> float:
        return self.records / self.seconds


def measure(recipe: Path, pages: int) -> tuple[int, dict[str, Taken]]:
    with private_house("events-alone", str(recipe), WORKERS, broker="kafka", announce=_quiet) as house:
        with prepared_load(house.settings, LoadOptions(seconds=1), log_length=16, warm_up=_WARM_UP, say=_quiet):
            pass
        time.sleep(2.0)
        house.stop_workers()
        kafka = house.kafka
        like = [decode(TOPICS[SERVED], record.value) for record in read_topic(kafka, SERVED)]
        decided = [decode(TOPICS[DECISIONS], record.value) for record in read_topic(kafka, DECISIONS)]
        count = put_pages(kafka, [page for page in like if page.items], decided, pages)
        found = {"plain": _plain(house), "ingest": _worker(house, "ingest", _EVENTS)}
        found["rewards"] = _worker(house, "rewards", (DECISIONS, OUTCOMES))
        return count, found


def _plain(house: House) -> Taken:
    command = [sys.executable, "-m", "benchmarks.lab.plain_join", house.stack.bootstrap, house.stack.redis_url]
    child = Child("plain", [*command, str(CLICK_WINDOW_MS)], home=house.home)
    child.start()
    try:
        return _drained(house, PLAIN, _EVENTS, lambda: by_process(house) | {"plain": cpu_of(child.pid)}, dict)
    finally:
        child.stop()


def _worker(house: House, name: str, topics: Sequence[str]) -> Taken:
    house.start(name)
    try:
        return _drained(house, GROUPS[name], topics, lambda: by_process(house), lambda: phases_of(house.workers[name]))
    finally:
        house.stop_workers()


def _drained(
    house: House,
    group: str,
    topics: Sequence[str],
    used: Callable[[], dict[str, float]],
    phases: Callable[[], dict[str, float]],
) -> Taken:
    end = _ends(house.kafka, topics)
    left = _await(house, group, topics, end, end - (end - _read(house.kafka, group, topics)) // 10 * 9)
    before, phases_before, began = used(), phases(), time.monotonic()
    _await(house, group, topics, end, end)
    seconds, after = time.monotonic() - began, used()
    scale = 1e6 / (end - left)
    return Taken(
        end - left,
        seconds,
        {name: scale * (after[name] - before[name]) for name in before},
        {name: scale * (s - phases_before.get(name, 0.0)) for name, s in phases().items()},
    )


def _await(house: House, group: str, topics: Sequence[str], end: int, wanted: int) -> int:
    """Returns how many records the group has committed, once there are so many."""
    deadline = time.monotonic() + _PATIENCE_S
    while (read := _read(house.kafka, group, topics)) < wanted:
        if fallen := house.fallen():
            raise SystemExit("".join(fallen))
        if time.monotonic() > deadline:
            raise SystemExit(f"{group} stands at {read} of {end} after {_PATIENCE_S:.0f} s")
        time.sleep(0.2)
    return read


def _read(kafka: Kafka, group: str, topics: Sequence[str]) -> int:
    return sum(sum(committed(kafka, group, topic).values()) for topic in topics)


def _ends(kafka: Kafka, topics: Sequence[str]) -> int:
    return sum(end for topic in topics for _, end in ends(kafka, topic).values())


def _quiet(line: str) -> None:
    """Says nothing."""


def show(found: dict[str, Taken]) -> None:
    for name, taken in found.items():
        total = sum(taken.microseconds.values())
        parts = ", ".join(f"{process} {us:.0f}" for process, us in taken.microseconds.items() if us >= 0.5)
        print(f"{name:<8} {taken.records:>8,} records, {taken.rate:8,.0f} a second; {total:5.0f} µs a record: {parts}")
        if taken.phases:
            print("         of which " + ", ".join(f"{p} {us:.0f}" for p, us in taken.phases.items() if us >= 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=40_000)
    parser.add_argument("--recipe", default="tiers", help="a built-in one")
    parser.add_argument("--json", action="store_true", help="print one object last")
    args = parser.parse_args()
    machine = this_machine()
    with tempfile.TemporaryDirectory(prefix="tiderank-recipe-") as folder:
        recipe = Path(folder) / "recipe.toml"
        recipe.write_text(f'base = "{args.recipe}"\n{_WINDOWS}')
        count, found = measure(recipe, args.pages)
    print(f"{machine}; {args.pages:,} pages, {count:,} records that ingest reads")
    show(found)
    if args.json:
        kept = {
            name: {
                "records_s": round(taken.rate),
                "us": {process: round(us, 1) for process, us in taken.microseconds.items()},
                "phases_us": {phase: round(us, 1) for phase, us in taken.phases.items()},
            }
            for name, taken in found.items()
        }
        print(json.dumps({"pages": args.pages, "records": count} | kept))


if __name__ == "__main__":
    main()
