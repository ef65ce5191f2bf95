"""The log of weight updates: what each epoch learned, and where it went on."""

import pytest

from ranker.updates.changes import Changes
from ranker.updates.record import Open, Update, UpdateHeader, encode_open, encode_update
from streams.audit.learned import Learned
from streams.audit.report import Section
from streams.wire.record import Record
from streams.wire.topics import UPDATES
from tests.streams.audit.history import counts, faults

Step = bytes | tuple[int, int, dict[str, int]]
"""A record, or epoch, number and offsets of an update."""
ENDS = {0: 100, 1: 50}


def opened(epoch: int, trainer: str | None = None, digest: str = "d") -> bytes:
    return encode_open(Open(epoch=epoch, digest=digest, trainer=trainer or f"t{epoch}", created_ms=0))


def update(
    epoch: int,
    number: int,
    offsets: dict[str, int],
    *,
    trainer: str | None = None,
    quarantined: dict[str, tuple[int, int]] | None = None,
) -> bytes:
    header = UpdateHeader(
        epoch=epoch,
        number=number,
        previous=number - 1,
        digest="d",
        trainer=trainer or f"t{epoch}",
        offsets=offsets,
        quarantined=quarantined or {},
    )
    (record,) = encode_update(Update(header, Changes({}, {})))
    return record


def audited(
    *records: bytes, ends: dict[int, int] = ENDS, wanted: dict[int, int] | None = None, whole: bool = True
) -> Section:
    """wanted: where the last examples are; by default there are none."""
    learned = Learned("d")
    for offset, value in enumerate(records):
        learned.add(Record(UPDATES, 0, offset, 0, None, value, ()))
    section = learned.section(ends, updates_whole=whole)
    learned.add_not_learned(section, wanted or {}, held=False)
    return section


def test_what_is_not_learned_yet_is_counted() -> None:
    section = audited(opened(1), update(1, 1, {}), update(1, 2, {"0": 90, "1": 50}), wanted=ENDS)
    assert faults(section) == {"not_learned": ("partition 0: 10 before 100",)}
    assert counts(section) == {"epochs": 1, "updates": 2, "examples": 140, "not_learned": 10}
    section = audited(wanted=ENDS)
    assert (counts(section), faults(section)) == ({"not_yet_learned": 150}, {}), "no trainer ever ran"


def test_a_trainer_that_opens_an_epoch_and_learns_nothing_is_a_fault() -> None:
    section = audited(opened(1), update(1, 1, {"0": 40, "1": 50}), opened(2), wanted=ENDS)
    assert faults(section) == {"not_learned": ("partition 0: 60 before 100",)}
    section = audited(opened(1), update(1, 1, {"0": 100, "1": 50}), opened(2), wanted=ENDS)
    assert faults(section) == {}, "it has nothing to learn"


def test_what_a_closed_gate_keeps_out_is_no_fault_before_an_update_tells_of_it() -> None:
    back = update(2, 1, {"0": 43}, trainer="t1", quarantined={"0": (30, 43)})
    section = audited(opened(1), update(1, 1, {"0": 40, "1": 50}), opened(2, "t1"), back, wanted=ENDS)
    assert (faults(section), counts(section)["kept_out_so_far"]) == ({}, 107)
    begun = update(2, 1, {"0": 40, "1": 50})
    section = audited(opened(1), update(1, 1, {"0": 40, "1": 50}), opened(2), begun, wanted=ENDS)
    assert list(faults(section)) == ["not_learned"], "another trainer has begun, and learns nothing"


def test_an_epoch_that_starts_further_back_learns_again() -> None:
    section = audited(
        opened(1), update(1, 1, {"0": 40, "1": 20}), opened(2), opened(3), update(3, 1, {"0": 30, "1": 15}),
        update(3, 2, {"0": 100, "1": 50}),
    )  # fmt: skip
    assert faults(section) == {}
    assert counts(section)["examples_learned_again"] == 15
    assert counts(section)["epochs"] == 3


def test_an_epoch_that_starts_further_on_leaves_examples_out() -> None:
    section = audited(opened(1), update(1, 1, {"0": 40}), opened(2), update(2, 1, {"0": 43}))
    assert faults(section) == {"never_learned": ("model.updates[0]@3: 3 examples of partition 0",)}


def test_what_the_gate_keeps_out_is_said_and_no_fault() -> None:
    back = update(2, 1, {"0": 43}, quarantined={"0": (30, 43)})
    section = audited(opened(1), update(1, 1, {"0": 40}), opened(2), back, update(2, 2, {"0": 60}))
    assert faults(section) == {}
    assert counts(section)["examples_quarantined"] == 13
    less = update(2, 1, {"0": 43}, quarantined={"0": (30, 42)})
    assert list(faults(audited(opened(1), update(1, 1, {"0": 40}), opened(2), less))) == ["never_learned"]


def test_a_number_left_out_is_a_gap() -> None:
    assert list(faults(audited(opened(1), update(1, 1, {}), update(1, 3, {})))) == ["gaps"]
    assert list(faults(audited(opened(1), update(1, 2, {})))) == ["gaps"]
    assert faults(audited(update(1, 7, {}), update(1, 8, {}), whole=False)) == {}, "the log begins inside an epoch"


@pytest.mark.parametrize(
    "void",
    [opened(1, "other"), update(1, 9, {"0": 99}), opened(2, "other"), update(2, 1, {"0": 99}, trainer="other")],
)
def test_what_another_trainer_writes_into_an_epoch_that_is_not_its_own_is_void(void: bytes) -> None:
    section = audited(opened(1), opened(2), update(2, 1, {"0": 1}), void, update(2, 2, {"0": 2}))
    assert faults(section) == {}
    assert (counts(section)["void"], counts(section)["examples"]) == (1, 2)


def test_records_of_others_are_counted_apart() -> None:
    section = audited(opened(9, digest="another"), b"garbage", opened(1), update(1, 1, {"0": 5}))
    assert faults(section) == {}
    assert (counts(section)["of_other_models"], counts(section)["malformed"]) == (1, 1)


def test_offsets_beyond_the_end_are_wrong() -> None:
    assert faults(audited(opened(1), update(1, 1, {"1": 51}))) == {"learned_beyond_the_end": ("partition 1: 51 of 50",)}
