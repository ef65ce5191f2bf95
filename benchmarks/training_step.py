"""What does a training step take, and where in it?

    python -m benchmarks.training_step [--recipe tiers] [--responses 2,16,64] [--steps 60] [--warm-up 10000] [--json]

The trainer's own learner, without its house: responses of a simulated world with few users, whose logs grow long,
in steps of so many, and after each the update that replicas would get: what has changed, as records, and the published
image with it. Milliseconds of processor time of one
thread, by phase, medians over the steps; a response has a page of impressions, each an example. Run it with another
tree in PYTHONPATH, in turns, to compare two.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from kernels.linear_compress import bind
from ranker.inputs.requests import LabelledRequest
from ranker.learning.learner import Learner
from ranker.updates.image import Image, new_image
from ranker.updates.log import Position
from ranker.updates.record import Update, UpdateHeader, encode_update
from streams.config.load import load_recipe
from streams.machine import this_machine
from streams.simulate.config import WORLDS
from streams.tuning.sample import SimulatedTraffic

_WARM_STEP = 64
"""Responses of a step before those that are measured."""
_UNMEASURED = 3
"""Steps of each size before those that are measured."""
_POSITION = Position(epoch=1, number=1, trainer="benchmark", offset=0)


class _Phases:
    """Processor time by phase, a sum a step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._since = 0.0

    def begin(self) -> None:
        self.steps.append(defaultdict(float))
        self._since = time.thread_time()

    def lap(self, phase: str) -> None:
        now = time.thread_time()
        self.steps[-1][phase] += 1000 * (now - self._since)
        self._since = now

    def medians(self) -> dict[str, float]:
        names = dict.fromkeys(name for step in self.steps for name in step)
        return {name: float(np.median([step[name] for step in self.steps])) for name in names}


def header(learner: Learner, *, reset: bool = False) -> UpdateHeader:
    return UpdateHeader(
        epoch=1, number=1, previous=0, digest=learner.config.digest, trainer="benchmark", reset=reset, grades={}
    )


def published(learner: Learner) -> Image:
    """Returns the image that replicas hold of all that was learned so far."""
    image = new_image(learner.config, bind("decomposed"))
    learner.mark_all()
    image.apply(Update(header(learner, reset=True), learner.take_changes()), _POSITION)
    return image


def measure(learner: Learner, image: Image, steps: Sequence[Sequence[LabelledRequest]]) -> dict[str, float]:
    """Milliseconds of a step by phase, and in all."""
    phases = _Phases()
    learner.lap = phases.lap
    for examples in steps:
        phases.begin()
        report = learner.learn(examples)
        if not report.applied:
            raise SystemExit(f"a step of {len(examples)} responses was not applied: loss {report.loss}")
        update = Update(header(learner), learner.take_changes(image))
        phases.lap("changes")
        encode_update(update)
        phases.lap("encode")
        image.apply(update, _POSITION)
        phases.lap("apply")
    phases.steps = phases.steps[_UNMEASURED:]
    return phases.medians() | {"all": float(np.median([sum(step.values()) for step in phases.steps]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiers", help="a built-in one")
    parser.add_argument("--responses", default="2,16,64", help="of a step, with commas between them")
    parser.add_argument("--steps", type=int, default=60, help="of each size that are measured")
    parser.add_argument("--warm-up", type=int, default=10_000, help="responses learned before")
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--json", action="store_true", help="print one object last")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(args.recipe)
    world = replace(WORLDS["rich"](), users=args.users)
    traffic = SimulatedTraffic(recipe.model, world, seed=1)
    learner = Learner(recipe.model, recipe.training.learner, bind("decomposed"))
    # What is measured learns from logs that were there before it: past pages are a part of a step.
    traffic.take(args.warm_up // 2)
    for _ in range(args.warm_up // 2 // _WARM_STEP):
        learner.learn(traffic.take(_WARM_STEP)[0])
    image = published(learner)
    print(f"{this_machine()}; recipe {args.recipe}")
    result: dict[str, dict[str, float]] = {}
    for size in map(int, args.responses.split(",")):
        steps = [traffic.take(size)[0] for _ in range(args.steps + _UNMEASURED)]
        taken = [example for examples in steps for example in examples]
        events = float(np.mean([len(example.request.log) for example in taken]))
        examples = float(np.mean([len(example.click_N) for example in taken]))
        found = measure(learner, image, steps)
        per_s = 1000 * size * examples / found["all"]
        told = ", ".join(f"{name} {ms:.2f}" for name, ms in found.items())
        print(f"{size:>4} responses of {examples:.1f} impressions, logs of {events:.0f}: {told} ms; ", end="")
        print(f"{per_s:,.0f} examples a second", flush=True)
        result[str(size)] = {name: round(ms, 3) for name, ms in found.items()}
        result[str(size)] |= {"examples_per_s": round(per_s), "events": round(events)}
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
