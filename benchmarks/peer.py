"""Is the system faster than what a good engineer would write in a day, and does it know as much?

    python -m benchmarks.peer [--seeds 5] [--seconds 20] [--waiting 3000] [--rate 15] [--json]

Two peers (benchmarks/lab/peer): a consumer of confluent-kafka, one read of Redis a poll, features in numpy (rows of
all ids, and how often the log shows and clicks the candidate's item, category and theme), and ONNX Runtime over a DCNv2
of as many dense parameters as a tier has, or LightGBM, over each pair. Their trainer takes the same joined examples,
learns in steps of a fifth of a second (trees: fitted anew each 5,000 examples), and hands a whole model file over each
second. They have neither a router nor a gate, and lose or double requests when they are killed.

Quality: the stream of the ladder, each learning it once as it comes; normalized entropy and value of the top of the
second half. Speed, each in a house of its own on the real Kafka, with the same load: processor time and answers a
second of requests that wait, with ranking alone; then latency and processor time at a given rate, with the trainer and
after it was stopped. Needs the extra `peer`.
"""

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.lab.draining import drain, preload, sent_requests
from benchmarks.lab.house import by_process
from benchmarks.lab.simulated import Plan, simulated
from benchmarks.ladder import CANDIDATES, Graded, tiers_alone
from kernels.linear_compress import bind
from ranker.compiled.build import compiler
from ranker.engine import Engine
from ranker.recipes import three_tiers
from streams.config.load import load_recipe
from streams.config.settings import compiled_folder
from streams.load.command import one_tier_recipe
from streams.load.measure import LoadOptions
from streams.load.run import Load, prepared_load
from streams.local.house import House, open_house
from streams.machine import this_machine
from streams.tuning.compile import build_tier

PACKAGES = ("lightgbm", "onnx", "onnxruntime")
PEERS = ("dcn", "trees")
WORKERS = ("ingest", "train", "rank")
"""What both need to answer and to learn; the router's workers are left out."""


def quality(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Grades by name, means over the seeds."""
    from benchmarks.lab.peer.quality import predictions

    model, found = three_tiers(), dict[str, list[dict[str, float]]]()
    for seed in map(int, args.seeds.split(",")):
        stream = simulated(Plan(world="rich", requests=args.requests, candidates=CANDIDATES, seed=seed), model)
        graded = Graded(stream, seed)
        for peer in PEERS:
            found.setdefault(peer, []).append(graded(predictions(peer, stream, model, args.log_length)))
        for name, p_n in tiers_alone(stream, args):
            found.setdefault(name, []).append(graded(p_n))
    return {
        name: {grade: statistics.fmean(one[grade] for one in each) for grade in ("entropy", "value")}
        for name, each in found.items()
    }


@contextmanager
def house_of(name: str, recipe: str) -> Iterator[House]:
    """A house whose rank and train are the peer's, or its own where a tier is named."""
    with tempfile.TemporaryDirectory(prefix="tiderank-peer-") as folder:
        module = "streams.cli"
        if name in PEERS:
            module = "benchmarks.lab.peer.cli"
            os.environ |= {"PEER": name, "PEER_MODEL": folder}
        with open_house(Path(folder), recipe=recipe, workers=WORKERS, broker="kafka", module=module) as house:
            yield house


def speed(name: str, recipe: str, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of one house."""
    found: dict[str, Any] = {}
    options = LoadOptions(seconds=args.seconds, candidates=args.candidates)
    warm_up = (args.rate, args.warm_up)
    with house_of(name, recipe) as house:
        with prepared_load(house.settings, options, log_length=args.log_length, warm_up=warm_up, say=_quiet) as load:
            found["learning"] = at_rate(house, load, args.rate)
            house.workers.pop("train").child.stop()
            found["not learning"] = at_rate(house, load, args.rate)
        house.stop_workers()
        like = sent_requests(house.kafka, args.candidates)
        drained = drain(house, preload(house.kafka, like, args.waiting, name), args.waiting, name)
        found["waiting"] = {"rate": round(drained.rate, 1), "ms": _rounded(drained.milliseconds)}
    return found


def at_rate(house: House, load: Load, rate: float) -> dict[str, Any]:
    before = by_process(house)
    row = load.measure(rate)
    used = {name: 1000 * (s - before[name]) / row.sent for name, s in by_process(house).items()}
    p50, p99 = (round(row.latency.percentile(percent) or 0.0, 1) for percent in (50, 99))
    return {"p50_ms": p50, "p99_ms": p99, "in_time": row.in_time / row.sent, "ms": _rounded(used)}


def _rounded(milliseconds: dict[str, float]) -> dict[str, float]:
    return {name: round(ms, 2) for name, ms in milliseconds.items()} | {"all": round(sum(milliseconds.values()), 2)}


def _quiet(line: str) -> None:
    """Says nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6_000, help="of the stream that quality is graded by")
    parser.add_argument("--seeds", default="5,6,7", help="of the stream")
    parser.add_argument("--tiers", default="light,medium")
    parser.add_argument("--waiting", type=int, default=5_000, help="requests that wait")
    parser.add_argument("--rate", type=float, default=15.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=30.0, help="seconds at that rate before")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--log-length", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="print one object last")
    args = parser.parse_args()
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        raise SystemExit(
            f"benchmarks.peer needs {', '.join(lacking)}: pip install {' '.join(lacking)} (the extra `peer`)"
        )
    args.dense_rate, args.row_rate, args.batch = 1e-3, 0.1, 16
    machine = this_machine()
    print(f"{machine}; {args.candidates} candidates, logs of {args.log_length}", flush=True)
    grades = quality(args)
    for name, grade in grades.items():
        print(f"{name:<8} normalized entropy {grade['entropy']:.4f}, value of the top {grade['value']:.3f}", flush=True)
    tiers, result = args.tiers.split(","), dict[str, dict[str, Any]]()
    if compiler() is not None:
        engine = Engine(load_recipe("tiers").model, bind("decomposed"))
        for tier in tiers:
            build_tier(engine, tier, compiled_folder())
    with tempfile.TemporaryDirectory(prefix="tiderank-recipe-") as folder:
        for name in (*PEERS, *tiers):
            recipe = one_tier_recipe("tiers", name if name in tiers else tiers[-1], Path(folder))
            result[name] = found = speed(name, recipe, args)
            print(f"{name:<8} waiting: {found['waiting']['rate']} answers/s, ms a request {found['waiting']['ms']}")
            for way in ("learning", "not learning"):
                at = found[way]
                said = f"p50 {at['p50_ms']}, p99 {at['p99_ms']} ms; ms a request {at['ms']}"
                print(f"{name:<8} {way}, {args.rate:g}/s: {said}", flush=True)
    if args.json:
        rounded = {name: {grade: round(v, 4) for grade, v in of.items()} for name, of in grades.items()}
        print(json.dumps({"quality": rounded, "speed": result}))


if __name__ == "__main__":
    main()
