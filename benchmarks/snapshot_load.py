"""How fast does a snapshot load by number of streams, from caches, and how long does taking one stop the training?

    python -m benchmarks.snapshot_load [--gb 1] [--mb-a-second 50] [--streams 1,2,4,8] [--rows 1000000]

Writes a snapshot of random tensors, one of them larger than all others, to a folder that is removed at the end; loads
it from a store that gives each stream so much a second after so long a wait, then through caches, then with one byte
changed. Then takes snapshots of a trainer's state, of a table of so many rows: all of it in the loop, and by a thread
beside a loop that is timed.
"""

import argparse
import gc
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from fsspec.implementations.local import LocalFileSystem

from benchmarks.lab.report import machine
from kernels.linear_compress import bind
from ranker.config import LearnerConfig, TableConfig
from ranker.inputs.copies import Copies
from ranker.learning.learner import Learner
from ranker.learning.state import copied_state, training_state
from ranker.recipes import demo_model
from ranker.snapshots.cache import ShardCache
from ranker.snapshots.reader import ShardReader
from ranker.snapshots.snapshot import Snapshot, SnapshotError, State, write_snapshot, write_state
from ranker.snapshots.writer import SnapshotWriter
from ranker.updates.image import Image, new_image
from ranker.updates.log import Position

HERE = Position(epoch=1, number=1, trainer="benchmark", offset=1)


class ThrottledStore(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """throttled:///folder: the local disk, as slow as a store over a network. Each read is a stream of its own."""

    protocol = "throttled"
    bytes_a_second = 50e6
    latency_s = 0.03
    reads = 0

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        type(self).reads += 1
        began = time.perf_counter()
        data: bytes = super().cat_file(path, start=start, end=end, **options)
        time.sleep(max(0.0, self.latency_s + len(data) / self.bytes_a_second - (time.perf_counter() - began)))
        return data


def random_state(size: int) -> State:
    """Three quarters of it in one tensor."""
    generator = np.random.default_rng(0)

    def tensor(nbytes: int) -> torch.Tensor:
        return torch.from_numpy(generator.integers(0, 2**31, nbytes // 64 * 16, np.int32)).reshape(-1, 16)

    image = {"rows/large/values": tensor(3 * size // 4)} | {f"dense/{i:02d}": tensor(size // 64) for i in range(16)}
    return State(image=lambda: image, training=dict, position=HERE, offsets={}, watermark_ms=0)


def loading(folder: Path, args: argparse.Namespace) -> None:
    snapshot = write_state(str(folder / "root"), random_state(int(args.gb * 1e9)), digest="d", created_ms=0)
    gc.collect()
    shards = snapshot.manifest.parts["image"]
    size = sum(shard.size for shard in shards)
    slow = snapshot.url.replace("file://", "throttled://")
    print(
        f"\n{size / 1e9:.2f} GB in {len(shards)} shards, the largest {max(s.size for s in shards) / 1e9:.2f} GB; "
        f"{args.mb_a_second:g} MB/s a stream, {args.latency_ms:g} ms before each read"
    )
    print(f"{'':<34}{'seconds':>9}{'MB/s':>8}{'of one stream':>15}{'reads of the origin':>21}")

    def row(name: str, reader: ShardReader, one: float | None = None) -> float:
        ThrottledStore.reads = 0
        began = time.perf_counter()
        tensors = reader.load(slow, shards)
        took = time.perf_counter() - began
        del tensors
        gain = "" if one is None else f"{one / took:.1f}x"
        print(f"{name:<34}{took:>9.2f}{size / 1e6 / took:>8.0f}{gain:>15}{ThrottledStore.reads:>21}", flush=True)
        return took

    one: float | None = None
    for streams in args.streams:
        took = row(f"{streams} streams", ShardReader(streams), one)
        one = one or took
    shared = ShardCache(str(folder / "shared"), 10 * size)
    first, second = (ShardCache(str(folder / name), 10 * size) for name in ("first", "second"))
    most = max(args.streams)
    row(f"{most} streams, filling two caches", ShardReader(most, [first, shared]), one)
    row("another host, shared cache warm", ShardReader(most, [second, shared]), one)
    row("again, local cache warm", ShardReader(most, [second, shared]), one)
    spoil(snapshot)
    began = time.perf_counter()
    try:
        ShardReader(most).load(slow, shards)
    except SnapshotError as error:
        print(f"one bit changed: refused after {time.perf_counter() - began:.2f} s: {error}".replace(str(folder), "…"))


def spoil(snapshot: Snapshot) -> None:
    path = Path(snapshot.url.removeprefix("file://")) / snapshot.manifest.parts["image"][0].file
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def trainer(rows: int) -> tuple[Learner, Image]:
    """Makes a learner and an image of the demo's model, its table of items filled with `rows` rows."""
    base = demo_model()
    model = replace(base, tables=(TableConfig(name="items", rows=rows), *base.tables[1:]))
    compress = bind("decomposed")
    learner, image = Learner(model, LearnerConfig(), compress), new_image(model, compress)
    keys = np.random.default_rng(0).integers(0, 2**63, rows).astype(np.uint64)
    for begin in range(0, rows, 20_000):
        learner.admissions["items"].admit(np.unique(keys[begin : begin + 20_000]), begin)
    image.tables.key_maps["items"].change(*learner.tables.key_maps["items"].items(), np.empty(0, np.uint64))
    image.position = HERE
    return learner, image


def pausing(folder: Path, args: argparse.Namespace) -> None:
    learner, image = trainer(args.rows)
    root, digest = str(folder / "trainer"), learner.config.digest
    gc.collect()
    gc.freeze()  # as the workers do: a full collection walks all of torch
    began = time.perf_counter()
    snapshot = write_snapshot(root, image, training_state(learner), digest=digest, created_ms=0)
    whole_s = time.perf_counter() - began
    size = sum(shard.size for shard in snapshot.manifest.shards)
    print(f"\na trainer's snapshot of {size / 1e6:.0f} MB ({args.rows:,} rows), to a local disk")
    print(f"{'all of it in the loop':<40}{1e3 * whole_s:>8.0f} ms of pause")
    quiet, busy, copies, beside, room = turns(2.0), [], [], [], Copies()
    for _ in range(args.repeats):
        began = time.perf_counter()
        state = State.of(image, copied_state(learner, room), room)
        copies.append(time.perf_counter() - began)
        writer = SnapshotWriter(root, digest=digest)
        began = time.perf_counter()
        writer.start(state, created_ms=0)
        del state
        while not isinstance(outcome := writer.outcome(), Snapshot):
            assert outcome is None, outcome
            busy += turns(0.1)
        beside.append(time.perf_counter() - began)
    print(
        f"{'a copy in the loop, the rest beside it':<40}{1e3 * statistics.median(copies):>8.0f} ms of pause "
        f"(most {1e3 * max(copies):.0f}); written in {statistics.median(beside):.1f} s"
    )
    for name, gaps in (("turns of the loop, nothing beside it", quiet), ("turns of the loop, beside the writer", busy)):
        p50, p99, most = np.percentile(np.array(gaps) * 1e3, (50, 99, 100), method="inverted_cdf")
        print(f"{name:<40}p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {most:.1f} ms")


def turns(seconds: float) -> list[float]:
    """How long each turn takes of a loop of small operations, such as a step is made of: it shows who holds it up."""
    a, gaps, end = torch.ones(64, 64), [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        for _ in range(20):
            a = torch.tanh(a @ a)
        gaps.append(time.perf_counter() - began)
    return gaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--mb-a-second", type=float, default=50.0)
    parser.add_argument("--latency-ms", type=float, default=30.0)
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4, 8])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    fsspec.register_implementation("throttled", ThrottledStore)
    ThrottledStore.bytes_a_second, ThrottledStore.latency_s = 1e6 * args.mb_a_second, args.latency_ms / 1e3
    print(machine())
    for part in (loading, pausing):
        with tempfile.TemporaryDirectory() as folder:
            part(Path(folder), args)


if __name__ == "__main__":
    main()
