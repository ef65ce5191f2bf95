"""Whatever stands on the log of the weights, a replica neither falls over nor takes in what is not an update."""

import os
import random
from collections import Counter

import msgspec
import safetensors.torch
import torch
from torch import Tensor

from ranker.engine import Engine
from ranker.updates.image import NotApplicable, new_image
from ranker.updates.log import TrainerLog, UpdateFollower
from ranker.updates.record import Open, UpdateHeader, decode_record, encode_open, encode_update
from ranker.updates.record import _seal as seal
from tests.ranker.samples import COMPRESS, tiny_learner, tiny_model, traffic, update_of

MESSAGES = 10_000 if os.environ.get("TIDERANK_LONG_TESTS") == "1" else 2_000
MODEL = tiny_model(rows=12)
DTYPES = [torch.float32, torch.bfloat16, torch.int8, torch.int64, torch.uint64, torch.float16, torch.bool]


def good_records() -> list[bytes]:
    learner = tiny_learner(MODEL)
    log = [encode_open(Open(epoch=1, digest=MODEL.digest, trainer="t", created_ms=0))]
    for number, examples in enumerate(traffic(0, 6), 1):
        learner.learn(examples)
        log += encode_update(update_of(learner, number))
    return log


def bytes_changed(rng: random.Random, data: bytes) -> bytes:
    """Bits flipped, cut short, stretched, or noise."""
    kind = rng.randrange(4)
    if kind == 0:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 1:
        return data[: rng.randrange(len(data))]
    if kind == 2:
        return data + rng.randbytes(rng.randint(1, 64))
    return rng.randbytes(rng.randint(0, 300))


def tensor(rng: random.Random) -> Tensor:
    shape = [rng.choice([0, 1, 2, 3, 8]) for _ in range(rng.randrange(4))]
    values = torch.randint(-128, 128, shape)
    if rng.random() < 0.2 and values.numel():
        return torch.full(shape, rng.choice([torch.nan, torch.inf, -torch.inf]))
    return values.to(rng.choice(DTYPES))


def content_changed(rng: random.Random, data: bytes) -> bytes:
    """Another header or other tensors, with a checksum that is right."""
    record = decode_record(data)
    header, tensors = record.header, dict(record.tensors)
    for _ in range(rng.randint(1, 3)):
        if tensors and rng.random() < 0.6:
            name = rng.choice(sorted(tensors))
            kind = rng.randrange(4)
            if kind == 0:
                tensors[name] = tensor(rng)
            elif kind == 1:
                del tensors[name]
            elif kind == 2:
                tensors[
                    rng.choice(["rows/x/keys", "dense/", "", "rows//values", "dense_scales/light/w", name + "/x"])
                ] = tensors.pop(name)
            else:
                first = tensors[name]
                tensors[name] = first[:1].repeat(2, *[1] * (first.ndim - 1)) if first.ndim and len(first) else first
        elif isinstance(header, UpdateHeader):
            number = rng.choice([1, 2, 3, 7, 2**53])
            changes: dict[str, object] = rng.choice(
                [
                    {"number": number, "previous": number - 1},
                    {"epoch": rng.choice([0, 1, 2, 2**53])},
                    {"reset": True},
                    {"parts": rng.choice([1, 2, 4096]), "part": 0},
                    {"trainer": "other"},
                    {"digest": "other"},
                    {"offsets": {"x": 2**53}},
                ]
            )
            header = msgspec.structs.replace(header, **changes)
        else:
            header = msgspec.structs.replace(header, epoch=rng.choice([0, 1, 2, 3]), base=rng.choice([None, (1, 9)]))
    return seal(header, tensors)


class Replica:
    """Follows the log beside an image that has only ever seen what is good, and goes on from that after a fault."""

    def __init__(self, log: list[bytes]) -> None:
        self.log = log
        self.trusted, self.next = new_image(MODEL, COMPRESS), 0
        self.engine, self.follower = Engine(MODEL, COMPRESS), UpdateFollower(MODEL.digest)

    def resync(self, *, changed: bool) -> None:
        self.follower = UpdateFollower(MODEL.digest, self.trusted.position)
        if self.trusted.position is not None:
            if changed:
                self.engine.image.load(self.trusted.tensors(), self.trusted.position, watermark_ms=0, offsets={})
            return
        if changed:
            self.engine = Engine(MODEL, COMPRESS)
        for offset, data in enumerate(self.log[: self.next]):
            self.follower.feed(data, offset)

    def take(self, data: bytes) -> str:
        """What becomes of a record; anything but a skip is followed by a resync."""
        skipped = self.follower.skipped.total()
        update = self.follower.feed(data, self.next)
        if self.follower.skipped.total() > skipped:
            return "skipped"
        outcome = "fault" if self.follower.fault is not None else "believed"  # an open, or a part, as if by a trainer
        if update is not None:
            assert self.follower.position is not None
            try:
                self.engine.apply(update, self.follower.position)
                outcome = "applied"
                assert all(
                    bool(t.isfinite().all()) for t in self.engine.image.tensors().values() if t.is_floating_point()
                )
            except NotApplicable:
                outcome = "not applicable"
        self.resync(changed=outcome == "applied")  # what is not applicable has changed nothing
        return outcome

    def take_good(self) -> None:
        data = self.log[self.next]
        update = self.follower.feed(data, self.next)
        assert self.follower.fault is None
        if update is not None:
            assert self.follower.position is not None
            self.engine.apply(update, self.follower.position)
            self.trusted.apply(update, self.follower.position)
            ours, good = self.engine.image.tensors(), self.trusted.tensors()
            assert all(torch.equal(ours[name], good[name]) for name in good)
        self.next += 1


def test_fuzzed_records_break_no_replica_and_no_trainer() -> None:
    rng = random.Random(0)
    torch.manual_seed(0)
    log = good_records()
    outcomes: Counter[str] = Counter()
    trainer = TrainerLog(MODEL.digest, "reader")
    replica = Replica(log)
    for message in range(MESSAGES):
        near = log[replica.next] if rng.random() < 0.7 else rng.choice(log)
        data = bytes_changed(rng, near) if rng.random() < 0.4 else content_changed(rng, near)
        trainer.feed(data)
        outcomes[replica.take(data)] += 1
        if message % 40 == 39:
            replica.take_good()
        if replica.next == len(log):
            replica = Replica(log)
    print(dict(outcomes))
    assert min(outcomes[name] for name in ("applied", "not applicable", "fault", "skipped")) > MESSAGES / 100


def test_a_body_that_lies_about_its_size_allocates_nothing() -> None:
    header = UpdateHeader(epoch=1, number=1, previous=0, digest=MODEL.digest, trainer="t", reset=True)
    body = safetensors.torch.save({"dense/light/w": torch.zeros(4)})
    data = seal(header, {"dense/light/w": torch.zeros(4)})
    huge = body.replace(b'"shape":[4]', b'"shape":[4000000000]')
    assert huge != body
    follower = UpdateFollower(MODEL.digest)
    follower.feed(encode_open(Open(epoch=1, digest=MODEL.digest, trainer="t", created_ms=0)), 0)
    start = data.index(body)
    assert follower.feed(data[:start] + huge + data[start + len(body) :], 1) is None
