"""How large is a training example that refers to the user log, beside one that carries the sequence?

    python -m benchmarks.example_bytes

Examples as the simulated world makes them, in the encoding of training.examples. The sequence is added in its packed
form (16 bytes an event, as Redis keeps it), the smallest it could have.
"""

import statistics

import numpy as np

from feature_store.events import RECORD_BYTES
from streams.simulate.config import demo
from streams.simulate.traffic import Traffic
from streams.simulate.world import World
from streams.wire.codec import encode
from streams.wire.messages import LogRef, ModelVersion, TrainingExample
from streams.wire.topics import EXAMPLES, TOPICS

EXAMPLES_MADE = 1000
LENGTHS = (64, 256, 512, 2048)


def examples() -> list[TrainingExample]:
    world = World(demo(), seed=0)
    traffic = Traffic(world)
    rng = np.random.default_rng(0)
    made = []
    for number in range(EXAMPLES_MADE):
        visit = traffic.next(1_700_000_000_000 + 50 * number)
        item = int(visit.items[0])
        made.append(
            TrainingExample(
                example_id=f"click:sim0-18f2a{number:06d}.i0",
                kind="click",
                label=float(rng.random() < 0.1),
                value=0.0,
                response_id=rng.bytes(16).hex(),
                user=world.user_ids[visit.user],
                item=world.item_ids[item],
                position=number % 4,
                surface=visit.surface,
                event_ms=1_700_000_000_000 + 50 * number,
                log=LogRef(generation=int(rng.integers(2**62)), count=number),
                features=dict(world.user_features(visit.user)),
                context={"device": visit.device},
                item_features=dict(world.item_features(item)),
                tier="light",
                pctr=float(rng.random()),
                pcvr=float(rng.random()),
                model=ModelVersion(epoch=1, number=number, digest="ba0b9952317563d9"),
                trigger_ms=1_700_000_000_000 + 50 * number,
                label_ms=1_700_000_000_000 + 50 * number,
            )
        )
    return made


def main() -> None:
    size = statistics.mean(len(encode(TOPICS[EXAMPLES], example)) for example in examples())
    print(f"training example with a log reference: {size:.0f} bytes")
    for length in LENGTHS:
        copied = size + RECORD_BYTES * length
        print(f"with {length:>5} events copied in: {copied:7.0f} bytes, {copied / size:6.1f} times as large")


if __name__ == "__main__":
    main()
