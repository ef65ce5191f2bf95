"""What does it cost, step by step, that keys come and go in a full table of a million rows?

    python -m benchmarks.eviction [--rows 1000000] [--new 256,1024,4096] [--steps 300]

First admission alone: each step brings so many keys that were turned away just before, and as many must leave. Then
the product's learner and a replica's engine, in turns, 64 requests of 16 candidates a step: once every candidate is
such a key (full churn), once all are known; the replica scores 100 candidates between two updates. Prints milliseconds
of wall clock and of this process's CPU time, which other work on the machine disturbs less. Python's collector is kept
from walking what was there before (gc.freeze): a full collection takes 200 ms, of which the table has no part.
"""

import argparse
import gc
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from kernels.linear_compress import bind
from ranker.arrays import U64
from ranker.config import ITEM, USER, LearnerConfig, ModelConfig, Slot, TableConfig, TierConfig
from ranker.engine import Engine
from ranker.inputs.hashing import hash64, salted
from ranker.inputs.keymap import KeyMap
from ranker.inputs.requests import LabelledRequest, ScoringRequest
from ranker.learning.eviction import Admission
from ranker.learning.learner import Learner
from ranker.planning.plan import table_bytes
from ranker.updates.log import Position
from ranker.updates.record import Update, UpdateHeader

WIDTH, TAIL_ROWS = 16, 4_096
REQUESTS, CANDIDATES, SCORED = 64, 16, 100
FILL = 20_000
_NEARLY_ALL = 0.95
"""Least share of keys that get a row when they come again: a few marks of those turned away are overwritten."""


@dataclass
class Timed:
    """Durations of one kind of call."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    @contextmanager
    def once(self) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.wall_ms.append((time.perf_counter() - wall) * 1e3)
        self.cpu_ms.append((time.process_time() - cpu) * 1e3)

    def line(self, name: str) -> str:
        figures = np.append(
            *(np.percentile(ms, (50, 99, 100), method="inverted_cdf") for ms in (self.wall_ms, self.cpu_ms))
        )
        return f"{name:<34}" + "".join(f"{figure:>9.2f}" for figure in figures)


def admission(rows: int, new: int, steps: int) -> Timed:
    """Times admission into a full table, all keys without a row."""
    admission, rng, timed = Admission(KeyMap(rows)), np.random.default_rng(0), Timed()
    filling = -(-rows // FILL) + 5
    for step in range(filling):
        admission.admit(_random_keys(rng, FILL), step)
    for step in range(filling, filling + steps):
        keys = _random_keys(rng, new)
        admission.admit(keys, step)  # a full table lets nobody in at the first time
        with timed.once():
            admitted = admission.admit(keys, step)
        assert len(admitted.evicted_V) == len(admitted.keys_K) > _NEARLY_ALL * new
    return timed


class Replicated:
    """A learner whose table is full, and an engine that follows it."""

    def __init__(self, rows: int) -> None:
        config = ModelConfig(
            name="eviction",
            slots=(Slot(name=USER, side="user"), Slot(name=ITEM, side="candidate", table="items")),
            tables=(
                TableConfig(name="items", rows=rows, tail_rows=TAIL_ROWS),
                TableConfig(name="shared", rows=1_000, tail_rows=64),
            ),
            tiers=(TierConfig(name="only", log_length=1, user_tokens=4, fm_tokens=2, compressed_tokens=2, hidden=16),),
            width=WIDTH,
        )
        compress = bind("decomposed")
        self.learner, self.engine = Learner(config, LearnerConfig(), compress), Engine(config, compress)
        self.number = self.items = 0
        for step in range(-(-rows // FILL)):
            admitted = self.learner.admissions["items"].admit(_keys_of(self.items, FILL), step)
            self.learner.pending.touch("items", admitted.rows_K)
            self.items += FILL
        self.learner.step = step + 1
        self.engine.apply(*self.update())
        self.probe = ScoringRequest(
            user="probe", event_ms=0, items=[f"{i}" for i in range(SCORED)], item_features=[{}] * SCORED
        )

    def examples(self, *, new: bool) -> list[LabelledRequest]:
        """One batch: all of its items turned away once, or all among the newest."""
        count = REQUESTS * CANDIDATES
        first = self.items if new else self.items - count
        if new:
            self.learner.admissions["items"].admit(_keys_of(first, count), self.learner.step)
            self.items += count
        rng = np.random.default_rng(self.number)
        return [_example(b, first + b * CANDIDATES, rng) for b in range(REQUESTS)]

    def update(self) -> tuple[Update, Position]:
        """The next update of what the learner has changed."""
        self.number += 1
        header = UpdateHeader(
            epoch=1,
            number=self.number,
            previous=self.number - 1,
            digest=self.learner.config.digest,
            trainer="t",
            reset=self.number == 1,
        )
        position = Position(epoch=1, number=self.number, trainer="t", offset=self.number)
        return Update(header, self.learner.take_changes()), position

    def run(self, steps: int, *, new: bool) -> dict[str, Timed]:
        timed = {name: Timed() for name in ("learn", "take changes", "apply", "score right after", "score again")}
        for _ in range(steps):
            examples = self.examples(new=new)
            with timed["learn"].once():
                report = self.learner.learn(examples)
            assert (report.evicted > _NEARLY_ALL * REQUESTS * CANDIDATES) == new
            with timed["take changes"].once():
                update, position = self.update()
            with timed["apply"].once():
                self.engine.apply(update, position)
            for name in ("score right after", "score again"):
                with timed[name].once():
                    self.engine.score("only", [self.probe])
        return timed


def _example(number: int, first: int, rng: np.random.Generator) -> LabelledRequest:
    nothing = np.zeros(CANDIDATES, np.float32)
    request = ScoringRequest(
        user=f"u{number}",
        event_ms=0,
        items=[f"{first + i}" for i in range(CANDIDATES)],
        item_features=[{}] * CANDIDATES,
    )
    return LabelledRequest(
        request=request,
        response_id=f"{number}",
        tier="only",
        click_N=rng.integers(0, 2, CANDIDATES).astype(np.float32),
        conversion_N=np.full(CANDIDATES, np.nan, np.float32),
        position_N=np.zeros(CANDIDATES, np.int64),
        pctr_N=nothing,
        pcvr_N=nothing,
        value_N=nothing,
    )


def _keys_of(first: int, count: int) -> U64:
    """Returns the keys of `count` items numbered from `first`, ascending."""
    return np.sort(salted(np.array([hash64(f"{i}") for i in range(first, first + count)], np.uint64), ITEM))


def _random_keys(rng: np.random.Generator, count: int) -> U64:
    return np.unique(rng.integers(0, 2**64, count, dtype=np.uint64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--new", default="256,1024,4096")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.rows:,} rows of width {WIDTH}, {options.steps} steps each; {platform.machine()}, one thread;")
    print(f"the table in the trainer: {table_bytes(options.rows, TAIL_ROWS, WIDTH) / 2**20:.0f} MiB")
    print(f"{'ms':<34}{'p50':>9}{'p99':>9}{'max':>9}{'CPU p50':>9}{'CPU p99':>9}{'CPU max':>9}")
    for new in (int(text) for text in options.new.split(",")):
        print(admission(options.rows, new, options.steps).line(f"admission, {new} new keys a step"), flush=True)
    replicated = Replicated(options.rows)
    replicated.run(5, new=True)  # first calls are slow
    gc.freeze()
    for label, new in (("all known", False), ("full churn", True)):
        for name, timed in replicated.run(options.steps, new=new).items():
            print(timed.line(f"{name}, {label}"), flush=True)


if __name__ == "__main__":
    main()
