"""What every benchmark of the laboratory takes from its command line."""

import argparse
from dataclasses import replace

import torch

from benchmarks.lab.simulated import Plan, simulated
from benchmarks.lab.stream import Stream
from benchmarks.lab.training import Settings
from ranker.config import LearnerConfig, ModelConfig


def parser(description: str | None, *, requests: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = Plan()
    made.add_argument("--world", default=plan.world, help="a simulated world")
    made.add_argument("--requests", type=int, default=requests)
    made.add_argument("--candidates", type=int, default=plan.candidates, help="shown of each request")
    made.add_argument("--history", type=int, default=plan.history, help="impressions of a user before, at most")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--batch", type=int, default=Settings().batch, help="requests of a step")
    made.add_argument("--dense-rate", type=float, default=3e-3)
    made.add_argument("--row-rate", type=float, default=0.3, help="streams are short")
    made.add_argument("--only", default="", help="variants to run beside the reference: parts of their names, comma")
    return made


def settings(args: argparse.Namespace) -> Settings:
    """Also confines torch to one thread: others share the machine."""
    torch.set_num_threads(1)
    return Settings(batch=args.batch, learner=LearnerConfig(dense_rate=args.dense_rate, row_rate=args.row_rate))


def streams(args: argparse.Namespace, model: ModelConfig) -> dict[int, Stream]:
    plan = Plan(world=args.world, requests=args.requests, candidates=args.candidates, history=args.history)
    return {seed: simulated(replace(plan, seed=seed), model) for seed in range(args.seeds)}


def chosen(args: argparse.Namespace, name: str) -> bool:
    parts = [part for part in args.only.split(",") if part]
    return not parts or any(part in name for part in parts)
