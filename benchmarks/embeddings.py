"""What do shared, planned tables gain over one table for each feature of equal size, in the same memory?

    python -m benchmarks.embeddings [--budgets-kb 40,150,600,6000] [--seeds 3] [--steps 100]

A generated stream whose truth is known: six features with 5 to 60,000 ids, as frequent as rank^-1; the log-odds of a
click are the sum of an effect of each feature's id and of one pair. The product's own learner takes one step a batch
and its engine scores each batch before it is learned; normalized entropy is that of the last third of the stream, 1
being what the base rate alone would get. At each budget (bytes as the trainer holds them, see plan.table_bytes):

    planned   all features in two tables, sized by ranker.planning from another stream of the same world
    apart     a table for each feature, all equal, an eighth of their bytes for the tail
    hashed    a table for each feature, all equal, all of it tail: the hashing trick
"""

import argparse
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kernels.linear_compress import bind
from ranker.arrays import F64
from ranker.config import ITEM, USER, LearnerConfig, ModelConfig, Slot, TableConfig, TierConfig, UpdateConfig
from ranker.engine import Engine
from ranker.grades import entropies, log_loss
from ranker.inputs.hashing import hash64, salted
from ranker.inputs.requests import LabelledRequest, ScoringRequest
from ranker.learning.learner import Learner
from ranker.planning.plan import SlotCounts, capacity_for, plan_tables, table_bytes
from ranker.updates.log import Position
from ranker.updates.record import Update, UpdateHeader

IDS = {USER: 60_000, ITEM: 20_000, "advertiser": 2_000, "campaign": 5_000, "category": 40, "device": 5}
SIDES = {USER: "user", "device": "user"}
SHARED_TABLE = {ITEM: "items"}
WIDTH = 16
REQUESTS, CANDIDATES = 128, 4
VARIANTS = ("planned", "apart", "hashed")


class World:
    """Impressions, and the truth they follow."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._shares = {name: _zipf(ids) for name, ids in IDS.items()}
        self._effects = {name: rng.normal(0, 0.7, ids) for name, ids in IDS.items()}
        self._pair = rng.normal(0, 0.7, (IDS["device"], IDS["category"]))

    def batches(self, seed: int, count: int) -> Iterator[tuple[list[LabelledRequest], float]]:
        """Batches, each with the log loss of the truth itself."""
        rng = np.random.default_rng(seed)
        for step in range(count):
            ids = {
                name: rng.choice(IDS[name], (REQUESTS, 1 if name in SIDES else CANDIDATES), p=share)
                for name, share in self._shares.items()
            }
            logits = sum(self._effects[name][i] for name, i in ids.items()) + self._pair[ids["device"], ids["category"]]
            p = 1 / (1 + np.exp(-(np.asarray(logits, np.float64) - 2)))
            clicks = rng.random(p.shape) < p
            loss = -float(np.where(clicks, np.log(p), np.log1p(-p)).sum())
            yield [_example(step, b, ids, clicks[b]) for b in range(REQUESTS)], loss


@dataclass(frozen=True, slots=True)
class Result:
    entropy: float
    nbytes: int


def model(tables: tuple[TableConfig, ...], table_of: dict[str, str], seed: int) -> ModelConfig:
    slots = tuple(
        Slot(name=name, side=SIDES.get(name, "candidate"), table=table_of[name])  # type: ignore[arg-type]
        for name in IDS
    )
    tier = TierConfig(name="only", log_length=1, user_tokens=4, fm_tokens=4, compressed_tokens=4, hidden=32)
    return ModelConfig(
        name="embeddings",
        slots=slots,
        tables=tables,
        tiers=(tier,),
        width=WIDTH,
        seed=seed,
        item_table=table_of[ITEM],
    )


def planned(world: World, seed: int, budget: int, steps: int) -> ModelConfig:
    table_of = {name: SHARED_TABLE.get(name, "shared") for name in IDS}
    counts = {name: SlotCounts(name, table_of[name], capacity_for(budget, WIDTH)) for name in IDS}
    for examples, _ in world.batches(seed + 1_000, steps):  # another day of the same world
        for name in IDS:
            ids = [i for e in examples for i in _ids(e.request, name)]
            counts[name].add(salted(np.array([hash64(i) for i in ids], np.uint64), name))
    plan = plan_tables(list(counts.values()), width=WIDTH, budget_bytes=budget)
    tables = tuple(TableConfig(name=t.name, rows=t.rows, tail_rows=t.tail_rows) for t in plan.tables)
    return model(tables, table_of, seed)


def apart(seed: int, budget: int, tail_share: float) -> ModelConfig:
    """The largest equal tables that fit."""
    each = budget // len(IDS)
    tail_rows = max(int(tail_share * (each - table_bytes(1, 0, WIDTH)) / table_bytes(0, 1, WIDTH)), 1)
    rows = 1
    while tail_share < 1 and table_bytes(rows + 1, tail_rows, WIDTH) <= each:
        rows += 1
    tables = tuple(TableConfig(name=f"of_{name}", rows=rows, tail_rows=tail_rows) for name in IDS)
    return model(tables, {name: f"of_{name}" for name in IDS}, seed)


def run(config: ModelConfig, world: World, seed: int, steps: int) -> Result:
    compress = bind("decomposed")
    learner = Learner(
        config, LearnerConfig(updates=UpdateConfig(rows="float32", dense="float32"), row_rate=0.05), compress
    )
    engine = Engine(config, compress)
    loss = clicks = count = 0.0
    for step, (examples, _) in enumerate(world.batches(seed, steps)):
        if step > steps * 2 // 3:
            scores = engine.score("only", [e.request for e in examples])
            click = np.concatenate([e.click_N for e in examples])
            loss += log_loss(click, np.concatenate([s.pctr for s in scores]))
            clicks, count = clicks + float(click.sum()), count + len(click)
        learner.learn(examples)
        header = UpdateHeader(
            epoch=1, number=step + 1, previous=step, digest=config.digest, trainer="t", reset=step == 0
        )
        engine.apply(
            Update(header, learner.take_changes()), Position(epoch=1, number=step + 1, trainer="t", offset=step + 1)
        )
    nbytes = sum(table_bytes(t.rows, t.tail_rows, WIDTH) for t in config.tables)
    return Result(loss / count / float(entropies(np.array(clicks / count))), nbytes)


def oracle(world: World, seed: int, steps: int) -> float:
    """Normalized entropy of the truth itself."""
    loss = clicks = count = 0.0
    for step, (examples, truth) in enumerate(world.batches(seed, steps)):
        if step > steps * 2 // 3:
            click = np.concatenate([e.click_N for e in examples])
            loss, clicks, count = loss + truth, clicks + float(click.sum()), count + len(click)
    return loss / count / float(entropies(np.array(clicks / count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets-kb", default="40,150,600,6000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    seeds = range(options.seeds)
    worlds = [World(seed) for seed in seeds]
    truth = [oracle(worlds[seed], seed, options.steps) for seed in seeds]
    print(f"normalized entropy, median of {options.seeds} seeds (lowest to highest); {options.steps} steps of")
    print(f"{REQUESTS * CANDIDATES} impressions; {platform.processor() or platform.machine()}")
    print(f"the truth itself: {_spread(truth)}")
    print(f"{'budget':>8}  " + "".join(f"{v:<26}" for v in VARIANTS) + "planned - apart, each seed")
    for kb in (float(text) for text in options.budgets_kb.split(",")):
        budget = int(kb * 1024)
        results = {
            variant: [_variant(variant, worlds[s], s, budget, options.steps) for s in seeds] for variant in VARIANTS
        }
        gains = [p.entropy - a.entropy for p, a in zip(results["planned"], results["apart"], strict=True)]
        cells = "".join(f"{_spread([r.entropy for r in results[v]]):<26}" for v in VARIANTS)
        print(f"{kb:>5.0f} KB  {cells}" + " ".join(f"{gain:+.4f}" for gain in gains), flush=True)
    print(f"{time.monotonic() - began:.0f} s")


def _variant(variant: str, world: World, seed: int, budget: int, steps: int) -> Result:
    if variant == "planned":
        config = planned(world, seed, budget, steps)
    else:
        config = apart(seed, budget, 1 / 8 if variant == "apart" else 1.0)
    return run(config, world, seed, steps)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.4f} ({min(values):.4f}–{max(values):.4f})"


def _zipf(ids: int) -> F64:
    weights = 1 / np.arange(1, ids + 1)
    return np.asarray(weights / weights.sum(), np.float64)


def _ids(request: ScoringRequest, name: str) -> list[str]:
    if name == USER:
        return [request.user]
    if name == ITEM:
        return list(request.items)
    if name in SIDES:
        return [str(request.features[name])]
    return [str(features[name]) for features in request.item_features]


def _example(
    step: int, b: int, ids: dict[str, npt.NDArray[np.int64]], clicks: npt.NDArray[np.bool_]
) -> LabelledRequest:
    sent = [name for name in IDS if name not in SIDES and name != ITEM]
    request = ScoringRequest(
        user=f"{ids[USER][b, 0]}",
        event_ms=0,
        items=[f"{i}" for i in ids[ITEM][b]],
        item_features=[{name: f"{ids[name][b, n]}" for name in sent} for n in range(CANDIDATES)],
        features={"device": f"{ids['device'][b, 0]}"},
    )
    nothing = np.zeros(CANDIDATES, np.float32)
    return LabelledRequest(
        request=request,
        response_id=f"{step}-{b}",
        tier="only",
        click_N=clicks.astype(np.float32),
        conversion_N=np.full(CANDIDATES, np.nan, np.float32),
        position_N=np.zeros(CANDIDATES, np.int64),
        pctr_N=nothing,
        pcvr_N=nothing,
        value_N=nothing,
    )


if __name__ == "__main__":
    main()
