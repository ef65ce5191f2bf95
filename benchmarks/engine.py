"""How much of the processor does scoring use, and what does a house use that has nothing to do?

    python -m benchmarks.engine [--recipe tiers] [--candidates 100] [--repeats 60] [--no-house] [--json]

Scoring: a request of so many candidates with a full log, from features to probabilities, by compiled graphs and by
operators in turns; milliseconds of this thread's processor time, and what the matrix products of the tier come to as a
share of this core's peak (a product of two matrices of 512 x 512 by the same library). Operators are those that a
forward of the tier dispatches; by block, microseconds of a forward by operators. Idle: all workers and servers of a
house on the real Kafka, a while after its start, with nothing sent; percent of a core.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.lab.house import shares_of_a_core
from kernels.linear_compress import bind
from ranker.compiled.build import build, compiler
from ranker.compiled.load import CompiledTier
from ranker.config import ModelConfig
from ranker.engine import Engine, predict
from ranker.inputs.features import Featurizer
from ranker.model.tier import Tier
from ranker.tuning.cost import count_operations, cpu_times, made_up_batch, made_up_request
from streams.config.load import load_recipe
from streams.local.house import WORKERS, private_house
from streams.machine import this_machine

_MATRIX = 512
_SETTLES_S = 30.0
"""Seconds after the start of a house in which its workers still read, join and warm up."""


def peak_flops() -> float:
    """Operations a second of one thread, in a product of square matrices; the best of twenty."""
    a = torch.randn(_MATRIX, _MATRIX)
    (times,) = cpu_times({"product": lambda: a @ a}, 20, inner=5).values()
    return 2 * _MATRIX**3 / min(times)


class _Operators(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def block_times(tier: Tier, forward: Callable[[], object], repeats: int) -> dict[str, float]:
    """Microseconds of processor time in each of the tier's modules, medians; "rest" is what none of them takes, such as
    looking rows up."""
    calls: list[dict[str, float]] = []
    began: dict[str, float] = {}

    def begin(name: str) -> None:
        began[name] = time.thread_time()

    def end(name: str) -> None:
        calls[-1][name] = calls[-1].get(name, 0.0) + 1e6 * (time.thread_time() - began[name])

    handles = []
    for name, module in tier.named_children():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: begin(name)))
        handles.append(module.register_forward_hook(lambda *_, name=name: end(name)))
    for _ in range(repeats):
        calls.append({})
        started = time.thread_time()
        forward()
        calls[-1]["rest"] = 1e6 * (time.thread_time() - started) - sum(calls[-1].values())
    for handle in handles:
        handle.remove()
    return {name: float(np.median([call[name] for call in calls])) for name in calls[-1]}


def measure_tier(
    model: ModelConfig, name: str, candidates: int, repeats: int, peak: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds by way, operators of a forward, and shares of the peak; and microseconds by block."""
    engine = Engine(model, bind("decomposed"))
    featurizer, tables, graph = Featurizer(model), engine.image.tables, engine.graph(name)
    length = model.tier(name).log_length
    request = made_up_request(candidates, length)
    batch = made_up_batch(model, graph.tier, tables, candidates)
    with torch.inference_mode(), _Operators() as operators:
        graph.tier(batch, tables, None)
    with torch.inference_mode():
        blocks = block_times(graph.tier, lambda: graph.tier(batch, tables, None), repeats)

    tiers, keyed = {name: graph.tier}, featurizer.keys([request], length)
    runs: dict[str, Callable[[], object]] = {
        "by operators": lambda: predict(featurizer, tiers, tables, name, featurizer.keys([request], length))
    }
    with tempfile.TemporaryDirectory() as folder:
        inputs = graph.inputs(keyed)
        if compiler() is not None and inputs is not None:
            build(graph, inputs[0], Path(folder) / "graph.pt2")
            compiled = CompiledTier(graph, Path(folder) / "graph.pt2")
            runs["compiled"] = lambda: compiled.predict(featurizer.keys([request], length, crossed=False))
        times = {way: 1000 * float(np.median(seconds)) for way, seconds in cpu_times(runs, repeats).items()}
    executed = candidates * count_operations(model, graph.tier, tables, log_length=length).executed(candidates)
    best_ms = min(times.values())
    share = 100 * executed / (best_ms / 1000) / peak
    return times | {"operators": operators.count, "share of peak, %": share}, blocks


def idle_shares(recipe: str, seconds: float) -> dict[str, float]:
    """Percent of a core, by process, of a house to which nothing is sent."""
    with private_house("engine", recipe, WORKERS, broker="kafka", announce=lambda line: None) as house:
        time.sleep(_SETTLES_S)
        return shares_of_a_core(house, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiers", help="a built-in one")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--idle-s", type=float, default=30.0, help="seconds that the house is watched")
    parser.add_argument("--no-house", action="store_true", help="scoring alone")
    parser.add_argument("--json", action="store_true", help="print one object last")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine, model, peak = this_machine(), load_recipe(args.recipe).model, peak_flops()
    print(f"{machine}; {peak / 1e9:.0f} GFLOP/s of a core; {args.candidates} candidates")
    tiers, by_block = {}, {}
    for tier in model.tiers:
        tiers[tier.name], by_block[tier.name] = measure_tier(model, tier.name, args.candidates, args.repeats, peak)
        for found, form in ((tiers[tier.name], ".2f"), (by_block[tier.name], ".0f")):
            print(f"{tier.name:<8} " + ", ".join(f"{what} {value:{form}}" for what, value in found.items()), flush=True)
    idle = {} if args.no_house else idle_shares(args.recipe, args.idle_s)
    for process, share in idle.items():
        print(f"idle {process:<10} {share:5.1f} % of a core")
    if args.json:
        score_ms = {name: round(found.get("compiled", found["by operators"]), 3) for name, found in tiers.items()}
        summary = {
            "score_ms": score_ms,
            "by_operators_ms": {name: round(found["by operators"], 3) for name, found in tiers.items()},
            "share_of_peak": {name: round(found["share of peak, %"], 2) for name, found in tiers.items()},
            "operators": {name: int(found["operators"]) for name, found in tiers.items()},
            "block_us": {name: {b: round(us) for b, us in blocks.items()} for name, blocks in by_block.items()},
            "idle_percent": round(sum(idle.values()), 1) if idle else None,
        }
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
