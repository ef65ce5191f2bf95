"""Which faults there are, and in which order a run inflicts them."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.faults import foreign, killed, operated, redis
from benchmarks.faults.killed import WORKERS
from benchmarks.faults.target import Target
from benchmarks.lab.faulty import POINTS
from streams.wire.topics import REQUESTS

Inflict = Callable[[Target], bool]
"""Returns, with the fault over, whether serving suffered."""


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    family: str
    """Faults of one family try the same thing on different parts."""
    inflict: Inflict
    forgets: bool = False
    """Redis comes back with so little that events are read again from long ago."""
    deletes: bool = False
    """Records that were read are gone from the broker. What Redis then forgets too nobody has, so all faults that
    forget come before: retention must outlast what a Redis may lose."""


def faults(*, slow_disk: bool) -> list[Fault]:
    def of(family: str, names: dict[str, Inflict], *, forgets: bool = False, deletes: bool = False) -> Iterator[Fault]:
        return (Fault(f"{family} {name}".strip(), family, f, forgets, deletes) for name, f in names.items())

    points = {f"{worker} {point}": (worker, point) for worker in POINTS for point in POINTS[worker]}
    moves = [("ingest", "end"), ("ingest", "beginning"), ("ingest", "somewhere"), ("train", "somewhere")]
    moves += [("learn", "somewhere"), ("rewards", "somewhere"), ("ingest", "deleted"), ("rewards", "deleted")]
    return [
        *of("kill", {name: partial(killed.kill, name=name) for name in WORKERS}),
        *of("halt", {name: partial(killed.halt, name=name) for name in WORKERS}),
        *of("die", {name: partial(killed.die, worker=w, point=p) for name, (w, p) in points.items()}),
        *of("kill broker", {"": killed.kill_broker}),
        *of("kill redis", {"": killed.kill_redis}),
        *of("slow redis", {"": partial(killed.kill_redis, slow=True)} if slow_disk else {}),
        *of("kill redis, ingest and broker", {"": killed.kill_all_that_store}),
        *of("empty redis", {"": redis.empty}, forgets=True),
        *of("restore redis", {"": redis.restore}, forgets=True),
        *of("refuse writes", {how: partial(redis.refuse_writes, how=how) for how in redis.REFUSALS}),
        *of("open transaction", {"": foreign.leave_open}),
        *of("abort transaction", {"": foreign.abort}),
        *of("move", {f"{w} to {to}": partial(operated.move_group, worker=w, to=to) for w, to in moves}),
        # Rewards that learn has not read are also what tells an emptied Redis which decisions were rewarded.
        *of("overtake", {w: partial(operated.overtake, worker=w) for w in ("ingest", "learn")}, deletes=True),
        *of("overtake", {"train": partial(operated.overtake, worker="train")}),
        *of("recreate", {t: partial(operated.recreate, topic=t) for t in operated.EVENTS}, deletes=True),
        *of("recreate", {REQUESTS: partial(operated.recreate, topic=REQUESTS)}),
    ]


def drawn(known: Sequence[Fault], number: int | None, rng: random.Random) -> list[Fault]:
    """So many, from shuffled decks that hold each once. None: one of each family."""
    if number is None:
        families = sorted({fault.family for fault in known})
        chosen = [rng.choice([f for f in known if f.family == family]) for family in families]
        rng.shuffle(chosen)
        return _forgetting_first(chosen)
    decks = [fault for _ in range(-(-number // len(known))) for fault in rng.sample(known, len(known))]
    return _forgetting_first(decks[:number])


def _forgetting_first(chosen: list[Fault]) -> list[Fault]:
    """Those that forget and those that delete change places among themselves; all others stay where they are."""
    places = [i for i, fault in enumerate(chosen) if fault.forgets or fault.deletes]
    ordered = sorted((chosen[i] for i in places), key=lambda fault: fault.deletes)
    for place, fault in zip(places, ordered, strict=True):
        chosen[place] = fault
    return chosen
