"""What `tiderank updates tail` says of each kind of record."""

import tomllib

import numpy as np
import torch

from ranker.config import Encoding
from ranker.tuning.encodings import SHORT, EncodingResult, TensorResult
from ranker.tuning.held_out import Change
from ranker.updates.changes import Changes, TableChange
from ranker.updates.encoding import encode
from ranker.updates.record import Open, Update, UpdateHeader, encode_open, encode_update
from streams.config.builtin import demo
from streams.config.load import from_table
from streams.operations.updates import describe, line
from streams.tuning.encodings import recipe_lines, to_text
from streams.wire.record import Record
from streams.wire.topics import UPDATES

HEADER = UpdateHeader(epoch=2, number=7, previous=6, digest="d" * 16, trainer="t", offsets={"0": 40}, watermark_ms=9)


def record(value: bytes | None, offset: int = 3) -> Record:
    return Record(UPDATES, 0, offset, 1_700_000_000_123, None, value, ())


def change(rows: int, tails: int, evicted: int) -> TableChange:
    return TableChange(
        keys_K=np.arange(rows, dtype=np.uint64),
        rows_K=np.arange(rows),
        values_KD=encode(torch.randn(rows, 16), "int8"),
        tails_W=np.arange(tails),
        tail_values_WD=encode(torch.randn(tails, 16), "int8"),
        evicted_V=np.arange(1_000, 1_000 + evicted, dtype=np.uint64),
    )


def test_an_update_is_shown_with_what_it_changes() -> None:
    changes = Changes(
        {"items": change(5, 2, 3), "shared": change(0, 0, 1)},
        {"light/a": encode(torch.randn(40, 8), "int8"), "light/b": encode(torch.randn(4), "float32")},
    )
    (data,) = encode_update(Update(HEADER, changes))
    found = describe(record(data))
    assert found["bytes"] == len(data)
    assert (found["kind"], found["epoch"], found["number"], found["learned_offsets"]) == ("update", 2, 7, {"0": 40})
    assert found["tables"]["items"] == {
        "rows": 5,
        "tails": 2,
        "evicted": 3,
        "bytes": 5 * (16 + 16 + 4) + 2 * (8 + 16 + 4) + 3 * 8,
        "encoding": "int8",
    }
    assert found["tables"]["shared"] == {"rows": 0, "tails": 0, "evicted": 1, "bytes": 8}
    assert found["dense"] == {"tensors": 2, "bytes": 40 * (8 + 4) + 16, "by": {"int8": 1, "float32": 1}}
    text = line(found)
    assert f"{len(data):,} B  epoch 2 update 7  items 5 rows + 2 tail rows int8, 3 evicted (260 B); " in text
    assert text.endswith("shared 1 evicted (8 B); dense 1 float32, 1 int8 (496 B)")
    assert "22:13:20.123" in text


def test_parts_are_told_apart() -> None:
    first, *_, last = encode_update(Update(HEADER, Changes({"items": change(400, 0, 0)})), max_bytes=6_000)
    parts = describe(record(last))["parts"]
    assert f"update 7 part 1/{parts} " in line(describe(record(first)))
    assert f"update 7 part {parts}/{parts} " in line(describe(record(last)))


def test_an_open_says_whose_it_is_and_what_it_builds_on() -> None:
    opened = Open(epoch=3, digest="d" * 16, trainer="train-1", created_ms=0, base=(2, 40))
    assert line(describe(record(encode_open(opened)))).endswith(
        "epoch 3 open    by train-1, model dddddddddddddddd, builds on epoch 2, update 40"
    )
    first = Open(epoch=1, digest="d", trainer="t", created_ms=0)
    assert line(describe(record(encode_open(first)))).endswith("builds on nothing")


def test_what_cannot_be_read_is_shown_as_that() -> None:
    (data,) = encode_update(Update(HEADER, Changes({"items": change(5, 0, 0)})))
    damaged = describe(record(data[:-1] + bytes([data[-1] ^ 1])))
    assert (damaged["kind"], damaged["epoch"]) == ("unreadable", 2)
    for junk in (None, b"", b"junk" * 10):
        assert line(describe(record(junk))).split("B  ")[1].startswith("unreadable: ")


def test_measured_encodings_become_lines_of_a_recipe() -> None:
    none = Change(0.0, 0.0)
    tensors = [
        TensorResult(name, encoding, 100, none)
        for name in ("items", "shared", "light/request.weight", "heavy/request.weight")
        for encoding in SHORT
    ]
    chosen: dict[str, Encoding] = {"items": "int8", "shared": "bfloat16", "light/request.weight": "int8"}
    found = EncodingResult(tensors, chosen, {"light": none, "heavy": none}, 800, 500, ["heavy/request.weight"])
    lines = recipe_lines(demo(), found)
    updates = from_table({"base": "demo"} | tomllib.loads(lines)).training.learner.updates
    assert updates.tensors == {"items": "int8", "light/request.weight": "int8", "heavy/request.weight": "float32"}
    assert recipe_lines(from_table({"base": "demo"} | tomllib.loads(lines)), found) == ""
    assert "taken back, as all together lost too much: heavy/request.weight" in to_text(found)
