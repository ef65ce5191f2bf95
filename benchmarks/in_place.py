"""What do updates cost the answers that they come between, and does any answer mix two versions of the weights?

    python -m benchmarks.in_place [--recipe demo] [--rate 20] [--turns 6] [--turn-s 30]

A house of its own (Apache Kafka where it can run), two ranking processes, a trainer that learns from what is shown. In
turns, one of the two applies the updates as they come and the other leaves them on the topic. Milliseconds from the
broker's timestamp of a request to that of its answer, of both, in the same run and under the same load.

Then every answer that one tier scored alone is scored once more, outside: the log of updates is applied one by one,
and at each version what was served with it is asked again, with the user's log as it was. A torn read would show as
an answer that no single version gives. So that this can be seen at all, the share of answers is printed that another
version, the next one, would have given differently.
"""

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.lab.holding import HOLD
from benchmarks.lab.house import house, traffic
from feature_store.facts import Position
from feature_store.log import LogGone, LogWantAsOf, UserLog
from kernels.linear_compress import bind, choose_impl
from ranker.engine import Engine
from ranker.inputs.requests import ScoringRequest
from ranker.updates.log import UpdateFollower
from streams.kafka.scan import read_topic
from streams.local.house import House
from streams.machine import this_machine
from streams.runtime.redis_client import PATIENT_S, connect
from streams.simulate.config import WORLDS
from streams.wire.codec import decode
from streams.wire.headers import CONTENT_TYPE
from streams.wire.messages import RankingResponse, Served
from streams.wire.topics import REQUESTS, RESPONSES, SERVED, TOPICS, UPDATES
from streams.workers.train.examples import served_request
from streams.workers.train.update_writer import now_ms

REPLICAS = ("one", "two")
SETTLING_S = 3.0
"""Seconds at the beginning of a turn, in which the one that goes on applying catches up."""
SAME = 1e-5
"""Probabilities nearer than this are the same: what else was in a micro-batch may change the last bits."""
DIFFERENT = 1e-4

Version = tuple[int, int]


@dataclass(frozen=True)
class Turn:
    applying: str
    began_ms: int
    ended_ms: int


def take_turns(folder: Path, turns: int, seconds: float) -> list[Turn]:
    done = []
    for number in range(turns):
        applying, holding = REPLICAS[number % 2], REPLICAS[(number + 1) % 2]
        (folder / holding).touch()
        (folder / applying).unlink(missing_ok=True)
        time.sleep(SETTLING_S)
        began_ms = now_ms()
        time.sleep(seconds)
        done.append(Turn(applying, began_ms, now_ms()))
    for name in REPLICAS:
        (folder / name).unlink(missing_ok=True)
    return done


def latencies(up: House, turns: Sequence[Turn]) -> dict[bool, list[list[int]]]:
    """Returns, by whether its replica applied updates, the milliseconds of every scored answer, turn by turn."""
    asked: dict[str, int] = {}
    for record in read_topic(up.kafka, REQUESTS):
        request = decode(TOPICS[REQUESTS], record.value, record.header(CONTENT_TYPE))
        asked[request.request_id] = record.timestamp_ms
    found: dict[bool, list[list[int]]] = {True: [[] for _ in turns], False: [[] for _ in turns]}
    for record in read_topic(up.kafka, RESPONSES):
        response: RankingResponse = decode(TOPICS[RESPONSES], record.value, record.header(CONTENT_TYPE))
        for number, turn in enumerate(turns):
            if response.status == "ok" and turn.began_ms <= asked[response.request_id] <= turn.ended_ms:
                applied = response.replica == turn.applying
                found[applied][number].append(record.timestamp_ms - asked[response.request_id])
    return found


def served(up: House) -> dict[Version, list[Served]]:
    """Reads what one tier scored alone, by version."""
    found = defaultdict(list)
    for record in read_topic(up.kafka, SERVED):
        message: Served = decode(TOPICS[SERVED], record.value, record.header(CONTENT_TYPE))
        if message.plan == message.tier:
            found[message.model.epoch, message.model.number].append(message)
    return found


def versions(up: House, engine: Engine) -> Iterator[Version]:
    """Applies the log, one update at a time; yields the version after each."""
    follower = UpdateFollower(up.settings.recipe.model.digest)
    for record in read_topic(up.kafka, UPDATES):
        update = follower.feed(record.value or b"", record.offset)
        if update is not None and follower.position is not None:
            engine.apply(update, follower.position)
            yield follower.position.epoch, follower.position.number


@dataclass
class Again:
    """Counts of answers that were scored once more."""

    same: int = 0
    torn: list[str] = field(default_factory=list)
    told_apart: int = 0
    """Answers that the next version would have given otherwise."""
    largest: float = 0.0


def score_again(up: House) -> Again:
    engine = Engine(up.settings.recipe.model, bind(choose_impl(torch.device("cpu"))))
    user_log = UserLog(connect(up.stack.redis_url, timeout_s=PATIENT_S), up.settings.recipe.log)
    by_version, found = served(up), Again()
    before: list[tuple[Served, ScoringRequest]] = []
    for version in versions(up, engine):
        for message, request in before:  # what the version before this one served
            found.told_apart += _distance(engine, message, request) > DIFFERENT
        before = _with_logs(up, user_log, by_version.pop(version, []))
        for message, request in before:
            away = _distance(engine, message, request)
            found.largest = max(found.largest, away)
            if away > SAME:
                found.torn.append(message.response_id)
            else:
                found.same += 1
    return found


def _with_logs(up: House, user_log: UserLog, messages: Sequence[Served]) -> list[tuple[Served, ScoringRequest]]:
    wants = [
        LogWantAsOf(m.user, Position(m.log.generation, m.log.count), up.settings.recipe.model.max_log_length)
        for m in messages
    ]
    read = user_log.read_as_of(wants) if wants else []
    return [(m, served_request(m, log)) for m, log in zip(messages, read, strict=True) if not isinstance(log, LogGone)]


def _distance(engine: Engine, message: Served, request: ScoringRequest) -> float:
    scores = engine.score(message.tier, [request])[0]
    then = np.array([[item.pctr, item.pcvr] for item in message.items])
    return float(np.abs(np.stack([scores.pctr, scores.pcvr], axis=1) - then).max(initial=0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo", help="a built-in recipe")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--turn-s", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{this_machine()}; {args.rate:g} requests/s, recipe {args.recipe}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tiderank-hold-") as folder:
        os.environ[HOLD] = folder
        workers = [*(f"rank-{name}" for name in REPLICAS), "ingest", "train", "rewards", "learn"]
        with house(f'base = "{args.recipe}"', workers, module="benchmarks.lab.holding") as up:
            with traffic(up.kafka, args.rate, seed=args.seed, world=WORLDS["demo"](), drain_s=10):
                time.sleep(args.warm_up)
                turns = take_turns(Path(folder), args.turns, args.turn_s)
            report(latencies(up, turns))
            again = score_again(up)
            print(
                f"scored once more at their version: {again.same + len(again.torn)} answers, {len(again.torn)} of no "
                f"single version {again.torn[:5]}; largest difference {again.largest:.1e}; the next version would "
                f"have answered {again.told_apart} otherwise (by more than {DIFFERENT:g})"
            )


def report(found: dict[bool, list[list[int]]]) -> None:
    print(f"{'':<12}{'answers':>9}{'p50 ms':>8}{'p99 ms':>8}   p99 of each turn")
    p99 = {}
    for applied, turns in found.items():
        pooled = [ms for turn in turns for ms in turn]
        p99[applied] = np.percentile(pooled, 99, method="inverted_cdf")
        each = " ".join(f"{np.percentile(turn, 99, method='inverted_cdf'):.0f}" for turn in turns)
        print(f"{'applied' if applied else 'held back':<12}{len(pooled):>9}{np.median(pooled):>8.1f}"
              f"{p99[applied]:>8.1f}   {each}")  # fmt: skip
    print(f"p99 applied / held back: {p99[True] / p99[False]:.2f}")


if __name__ == "__main__":
    main()
