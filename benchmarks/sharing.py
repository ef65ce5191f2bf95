"""What does sharing the request's side save? Time of one request against its candidates, in four ways.

    python -m benchmarks.sharing [--log 512] [--candidates 1,10,100,500,1000,2000] [--layers 2] [--width 64]

    per pair    each candidate a request of its own: log encoder, tokens and layers all over again
    repeated    the log's states once, the request's tokens copied for each candidate (the exact form's reference)
    exact       the exact form: what does not depend on the candidate once, the rest per candidate; same scores
    two-stack   the request's tokens in a stack of their own, which the candidates' rows cross at every layer
    low         the two stacks, the layers that this CPU runs faster in bf16 or int8 (at 500 candidates) so converted

The first three have the same weights, and must agree before anything is timed: a plain Wukong stack, at every layer as
many tokens as the two stacks have together. What low precision loses, benchmarks.precision measures. One request, one
thread; the ways take turns, so that what else the machine does falls on all of them alike. Medians, in milliseconds.
"""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from kernels.linear_compress import bind
from ranker.config import LOG, ModelConfig, Slot, TableConfig, TierConfig
from ranker.inputs.batch import Batch, SlotValues
from ranker.inputs.tables import PlainTables
from ranker.model.low_precision import convert
from ranker.model.tier import Logits, Tier
from ranker.model.wukong import ExactLayer
from ranker.model.wukong_reference import exact_layer_reference
from ranker.tuning.precision import time_layers

_ITEM_TOKENS = 8
"""Tokens of a candidate's own, after each layer."""

_CHOSEN_AT = 500
"""Candidates of the request that layers are timed on."""

PER_PAIR_AT_MOST = 20
"""Candidates that are evaluated pair by pair; more take as much longer as they are more."""


def model_of(args: argparse.Namespace, form: str) -> ModelConfig:
    user = tuple(Slot(name=f"user {i}", side="user") for i in range(args.user_slots))
    item = tuple(Slot(name=f"item {i}", side="candidate") for i in range(args.item_slots))
    tier = TierConfig(
        name="tier",
        layers=args.layers,
        encoder_layers=args.layers,
        log_length=args.log,
        read_length=args.log,
        user_tokens=args.user_tokens,
        fm_tokens=_ITEM_TOKENS // 2,
        compressed_tokens=_ITEM_TOKENS // 2,
        fm_rank=8,
        hidden=args.hidden,
    )
    if form == "exact":
        half = (args.user_tokens + _ITEM_TOKENS) // 2
        tier = replace(tier, form="exact", fm_tokens=half, compressed_tokens=half)
    tables = (TableConfig(name="shared", rows=10_000),)
    return ModelConfig(
        name="sharing", slots=user + item, tables=tables, tiers=(tier,), width=args.width, item_table="shared"
    )


def request(model: ModelConfig, candidates: int, log: int, *, copies: int = 1) -> Batch:
    """One request; with copies, as that many requests of one candidate each, which are the request's own in turn."""
    generator = torch.Generator().manual_seed(0)
    rows = model.tables[0].rows + model.tables[0].tail_rows

    def ints(high: int, count: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator)

    slots = {}
    for slot in model.slots:
        if slot.side == "candidate":
            slots[slot.name] = SlotValues(ints(rows, candidates), None)
        else:
            slots[slot.name] = SlotValues(ints(rows, 1).repeat(copies), None)
    slots[LOG] = SlotValues(ints(rows, log).repeat(copies), torch.full((copies,), log))
    return Batch(
        request_of_N=torch.arange(copies) if copies > 1 else torch.zeros(candidates, dtype=torch.int64),
        slots=slots,
        dense_user_BF=torch.zeros(copies, 0),
        dense_item_NF=torch.zeros(candidates, 0),
        log_action_E=ints(32, log).repeat(copies),
        log_surface_E=ints(32, log).repeat(copies),
        log_age_E=torch.rand(log, generator=generator).mul(10).repeat(copies),
        log_value_E=torch.rand(log, generator=generator).repeat(copies),
        longest=log,
    )


def repeated(tier: Tier, batch: Batch, tables: PlainTables) -> Tensor:
    with patch.object(ExactLayer, "forward", exact_layer_reference):
        return clicks(tier, batch, tables)


def clicks(tier: Tier, batch: Batch, tables: PlainTables) -> Tensor:
    logits: Logits = tier(batch, tables, None)
    return logits.click_N


def medians(ways: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    for run in ways.values():
        run()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            spent[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(times) for name, times in spent.items()}


def in_low_precision(tier: Tier, args: argparse.Namespace, tables: PlainTables) -> Tier:
    """A copy whose layers have the precision that is fastest here."""
    batch = request(model_of(args, "two-stack"), _CHOSEN_AT, args.log)
    saving = [x for x in time_layers(tier, lambda t: clicks(t, batch, tables), 1, repeats=args.repeats) if x.saves]
    fastest = {layer.path: layer.kind for layer in sorted(saving, key=lambda x: x.low_us, reverse=True)}
    print(f"in low precision: {fastest or 'no layer'}", flush=True)
    low = copy.deepcopy(tier)
    convert(low, fastest)
    return low


def tier_of(model: ModelConfig) -> Tier:
    return Tier(model, model.tiers[0], compress=bind("decomposed")).requires_grad_(False).eval()


def measure(
    args: argparse.Namespace, candidates: int, exact: Tier, two_stack: Tier, low: Tier, tables: PlainTables
) -> dict[str, float]:
    exact_model = model_of(args, "exact")
    shared = request(exact_model, candidates, args.log)
    pairs = min(candidates, PER_PAIR_AT_MOST)
    alone = request(exact_model, pairs, args.log, copies=pairs)
    ways: dict[str, Callable[[], Tensor]] = {
        "repeated": lambda: repeated(exact, shared, tables),
        "exact": lambda: clicks(exact, shared, tables),
        "two-stack": lambda: clicks(two_stack, shared, tables),
        "low": lambda: clicks(low, shared, tables),
    }
    torch.testing.assert_close(ways["exact"](), ways["repeated"](), rtol=1e-3, atol=1e-4)
    times = medians(ways, args.repeats)
    per_pair = medians({"per pair": lambda: clicks(exact, alone, tables)}, 3)["per pair"]
    return {"per pair": per_pair * candidates / pairs} | times


def cpu() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return models[0].split(":")[1].strip() if models else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", default="1,10,100,500,1000,2000")
    for name, default in (
        ("log", 512),
        ("layers", 2),
        ("width", 64),
        ("user-slots", 120),
        ("item-slots", 8),
        ("user-tokens", 120),
        ("hidden", 128),
        ("repeats", 15),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = ("per pair", "repeated", "exact", "two-stack", "low")
    print(f"{cpu()}; {args.log} events, {args.layers} + {args.layers} layers, width {args.width}, ", end="")
    print(f"{args.user_slots} + {args.item_slots} slots, {args.user_tokens} user tokens; milliseconds a request")
    exact, two_stack = tier_of(model_of(args, "exact")), tier_of(model_of(args, "two-stack"))
    tables = PlainTables(model_of(args, "exact"))
    low = in_low_precision(two_stack, args, tables)
    print("candidates " + " ".join(f"{name:>10}" for name in names) + "   repeated / two-stack")
    with torch.inference_mode():
        for candidates in map(int, args.candidates.split(",")):
            times = measure(args, candidates, exact, two_stack, low, tables)
            cells = " ".join(f"{times[name]:>10.2f}" for name in names)
            print(f"{candidates:>10} {cells} {times['repeated'] / times['two-stack']:>12.1f}x", flush=True)


if __name__ == "__main__":
    main()
