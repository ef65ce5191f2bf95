"""How few bytes keep replicas how near to the trainer?

    python -m benchmarks.update_bytes [--tier medium] [--requests 18000] [--batch 4] [--hours 96] [--only 1.0%]

One training, of one tier on a stream of the simulated world, publishes an update after every step in several ways at
once; a replica of each follows, and before a batch is learned all of them predict it. Prints, of each way, the bytes of
its updates (records as they are on the wire, full updates included), how many times fewer that is than sending in
float32 every row and tensor that changed, and than the whole model at the same cadence; and the loss of normalized
entropy against that float32 replica, with its paired 95 % interval by request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.lab.arguments import chosen, parser, settings
from benchmarks.lab.grades import difference, entropy
from benchmarks.lab.report import machine
from benchmarks.lab.simulated import Plan, simulated
from benchmarks.lab.stream import Stream, user_side
from benchmarks.lab.training import alone, lesson_of
from kernels.linear_compress import bind
from ranker.arrays import F32, I64, U64
from ranker.config import ModelConfig, UpdateConfig
from ranker.engine import Engine
from ranker.inputs.features import Featurizer
from ranker.learning.learner import Learner
from ranker.learning.pending import PendingChanges
from ranker.recipes import three_tiers
from ranker.updates.log import Position
from ranker.updates.record import Update, UpdateHeader, encode_update

_EXACT = UpdateConfig(rows="float32", dense="float32", moved=0.0)
_INT8 = UpdateConfig(rows="int8", dense="int8", moved=0.0)
WAYS = {
    "float32, all that changed": _EXACT,
    "bfloat16, all that changed": UpdateConfig(moved=0.0),
    "int8, all that changed": _INT8,
    **{f"bfloat16, moved {moved:.1%}": UpdateConfig(moved=moved) for moved in (0.01, 0.03)},
    **{f"int8, moved {moved:.1%}": replace(_INT8, moved=moved) for moved in (0.01, 0.03, 0.1)},
    "bfloat16, moved 3 %, rows 1 KB": UpdateConfig(moved=0.03, row_budget=1_024),
}


@dataclass
class Follower:
    """One way of publishing, and a replica that gets nothing else."""

    updates: UpdateConfig
    pending: PendingChanges
    engine: Engine
    nbytes: int = 0
    p: list[F32] = field(default_factory=list)

    def publish(self, learner: Learner, number: int) -> None:
        full = (number - 1) % self.updates.full_every == 0
        changes = self.pending.take(learner.dense, None if full else self.engine.image)
        header = UpdateHeader(
            epoch=1,
            number=number,
            previous=number - 1,
            digest=learner.config.digest,
            trainer="t",
            reset=number == 1,
            offsets={"0": number},
            watermark_ms=number,
            created_ms=number,
        )
        update = Update(header, changes)
        self.nbytes += sum(map(len, encode_update(update)))
        self.engine.apply(update, Position(epoch=1, number=number, trainer="t", offset=number))


class All(PendingChanges):
    """In the learner's place of one: tells every follower's."""

    def __init__(self, followers: Sequence[Follower]) -> None:
        self._followers = followers

    def touch(self, table: str, rows: I64) -> None:
        for follower in self._followers:
            follower.pending.touch(table, rows)

    def touch_catalogue(self, rows: I64) -> None:
        for follower in self._followers:
            follower.pending.touch_catalogue(rows)

    def evict(self, table: str, keys: U64) -> None:
        for follower in self._followers:
            follower.pending.evict(table, keys)


def whole_model(learner: Learner) -> int:
    """Bytes of all weights in float32, rows with their keys and numbers."""
    dense: int = sum(t.nbytes for tier in learner.tiers.values() for t in tier.state_dict().values())
    width = learner.config.width
    tables = (len(m) * (16 + 4 * width) for m in learner.tables.key_maps.values())
    tails = sum(t.tail_rows * (8 + 4 * width) for t in learner.config.tables)
    return dense + sum(tables) + tails


def publish_and_grade(
    stream: Stream, model: ModelConfig, learner: Learner, followers: list[Follower], batch: int
) -> int:
    """Trains through the stream; returns what the whole model at every step would have taken."""
    featurizer, side, (tier,) = Featurizer(model), user_side(model), model.tiers
    whole = 0
    for number, first in enumerate(range(0, stream.requests, batch), 1):
        last = min(first + batch, stream.requests)
        keyed = stream.batch(first, last, tier.log_length, side)
        if number > 1:
            for follower in followers:
                follower.p.append(follower.engine.predict(tier.name, keyed)[0])
        lesson = lesson_of(stream, tier, first, last, featurizer, side, learner)
        cut = slice(int(stream.candidate_starts[first]), int(stream.candidate_starts[last]))
        learner.learn_from([lesson], stream.click_N[cut], stream.conversion_N[cut])
        for follower in followers:
            follower.publish(learner, number)
        whole += whole_model(learner)
    return whole


def main() -> None:
    arguments = parser(__doc__, requests=18_000)
    arguments.add_argument("--tier", default="medium")
    arguments.add_argument("--hours", type=float, default=96.0, help="of event time, of the stream")
    arguments.add_argument("--graded", type=float, default=0.5, help="share of the stream, its last part")
    args = arguments.parse_args()
    learning = settings(args).learner
    model = alone(three_tiers(), replace(three_tiers().tier(args.tier), log_length=256))
    compress = bind("decomposed")
    learner = Learner(model, learning, compress)
    ways = {name: updates for name, updates in WAYS.items() if updates is _EXACT or chosen(args, name)}
    followers = [
        Follower(updates, PendingChanges(learner.tables, updates), Engine(model, compress)) for updates in ways.values()
    ]
    learner.pending = All(followers)
    plan = Plan(world=args.world, requests=args.requests, candidates=args.candidates, history=args.history)
    stream = simulated(replace(plan, days=args.hours / 24), model)
    print(f"{machine()}; tier {args.tier}, {args.requests} requests, {args.batch} a step", flush=True)
    whole = publish_and_grade(stream, model, learner, followers, args.batch)
    report(stream, dict(zip(ways, followers, strict=True)), whole, args.batch, args.graded)


def report(stream: Stream, ways: dict[str, Follower], whole: int, batch: int, graded: float) -> None:
    begin = max(int(stream.requests * (1 - graded)) // batch, 1) * batch
    from_N, first_N = int(stream.candidate_starts[begin]), int(stream.candidate_starts[batch])
    click_n, request_n = stream.click_N[from_N:], stream.keyed.request_of_N[from_N:]
    p = [np.concatenate(follower.p)[from_N - first_N :] for follower in ways.values()]
    steps, exact = -(-stream.requests // batch), next(iter(ways.values()))
    base = entropy(click_n, p[0])
    print(f"{steps} updates; the whole model each time: {whole / steps / 1024:.0f} KB; entropy {base:.4f} in float32")
    print(f"{'':<34}{'KB an update':>13}{'of float32':>12}{'of whole':>10}{'loss':>10}{'± 95 %':>10}")
    for (name, follower), p_n in zip(ways.items(), p, strict=True):
        loss = difference(click_n, p_n, p[0], request_n)
        print(
            f"{name:<34}{follower.nbytes / steps / 1024:>13.1f}{exact.nbytes / follower.nbytes:>11.1f}x"
            f"{whole / follower.nbytes:>9.1f}x{loss.mean / base:>+10.3%}{loss.half_width / base:>10.3%}"
        )


if __name__ == "__main__":
    main()
