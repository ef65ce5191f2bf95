import numpy as np
import pytest
import torch

from ranker.updates.changes import Changes, TableChange
from ranker.updates.encoding import Encoded
from ranker.updates.log import Dirty, Position, TrainerLog, UpdateFollower
from ranker.updates.record import Open, Update, UpdateHeader, encode_open, encode_update

DIGEST = "d"


def opened(epoch: int, trainer: str = "a", base: tuple[int, int] | None = None, digest: str = DIGEST) -> bytes:
    return encode_open(Open(epoch=epoch, digest=digest, trainer=trainer, created_ms=0, base=base))


def update(epoch: int, number: int, trainer: str = "a", key: int = 1, digest: str = DIGEST) -> bytes:
    return parts(epoch, number, trainer, keys=[key], digest=digest)[0]


def parts(
    epoch: int, number: int, trainer: str = "a", *, keys: list[int], digest: str = DIGEST, max_bytes: int = 900_000
) -> list[bytes]:
    change = TableChange(
        keys_K=np.array(keys, np.uint64),
        rows_K=np.arange(len(keys)),
        values_KD=Encoded(torch.ones(len(keys), 2)),
        tails_W=np.array([number]),
        tail_values_WD=Encoded(torch.ones(1, 2)),
        evicted_V=np.array([100 + number], np.uint64),
    )
    header = UpdateHeader(epoch=epoch, number=number, previous=number - 1, digest=digest, trainer=trainer)
    return encode_update(Update(header, Changes({"items": change})), max_bytes=max_bytes)


def damaged(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def follow(follower: UpdateFollower, log: list[bytes], first_offset: int = 0) -> list[tuple[int, int]]:
    """What is handed out, as (epoch, number)."""
    out = []
    for offset, data in enumerate(log, first_offset):
        ready = follower.feed(data, offset)
        if ready is not None:
            assert follower.position is not None
            assert (follower.position.epoch, follower.position.number) == (ready.header.epoch, ready.header.number)
            assert follower.position.offset == offset + 1
            out.append((ready.header.epoch, ready.header.number))
    return out


def position(epoch: int, number: int, trainer: str = "a", offset: int = 0) -> Position:
    return Position(epoch=epoch, number=number, trainer=trainer, offset=offset)


class TestFollower:
    def test_a_log_from_its_start(self) -> None:
        follower = UpdateFollower(DIGEST)
        assert follow(follower, [opened(1), update(1, 1), update(1, 2)]) == [(1, 1), (1, 2)]
        assert (follower.fault, dict(follower.skipped)) == (None, {})

    def test_a_zombie_cannot_write(self) -> None:
        log = [opened(1), update(1, 1), opened(2, "b", base=(1, 1)), update(1, 2), update(2, 1, "b"), update(1, 3)]
        follower = UpdateFollower(DIGEST)
        assert follow(follower, log) == [(1, 1), (2, 1)]
        assert (follower.fault, dict(follower.skipped)) == (None, {"old_epoch": 2})

    def test_of_two_opens_the_first_wins(self) -> None:
        log = [opened(1, "a"), opened(1, "b"), update(1, 1, "b"), update(1, 1, "a"), update(1, 2, "b")]
        follower = UpdateFollower(DIGEST)
        assert follow(follower, log) == [(1, 1)]
        assert follower.position is not None
        assert follower.position.trainer == "a"
        assert dict(follower.skipped) == {"lost_open": 3}

    def test_another_model_is_not_ours(self) -> None:
        log = [opened(1), opened(9, digest="other"), update(9, 1, digest="other"), update(1, 1)]
        follower = UpdateFollower(DIGEST)
        assert follow(follower, log) == [(1, 1)]
        assert dict(follower.skipped) == {"other_model": 2}

    def test_what_is_not_a_record_is_skipped(self) -> None:
        follower = UpdateFollower(DIGEST)
        assert follow(follower, [b"", b"noise", opened(1), b"TIDE", update(1, 1)]) == [(1, 1)]
        assert dict(follower.skipped) == {"malformed": 3}

    def test_a_gap_stops_it(self) -> None:
        follower = UpdateFollower(DIGEST)
        assert follow(follower, [opened(1), update(1, 1), update(1, 3), update(1, 2), update(1, 4)]) == [(1, 1)]
        assert follower.fault is not None
        assert "a gap" in follower.fault
        assert dict(follower.skipped) == {"after_fault": 2}

    def test_damage_in_the_live_epoch_stops_it(self) -> None:
        follower = UpdateFollower(DIGEST)
        assert follow(follower, [opened(1), update(1, 1), damaged(update(1, 2)), update(1, 2)]) == [(1, 1)]
        assert follower.fault == "epoch 1 at offset 2: the checksum does not match the record"

    def test_damage_in_an_old_epoch_or_below_our_number_is_nothing(self) -> None:
        follower = UpdateFollower(DIGEST, position(2, 5))
        assert follow(follower, [damaged(update(1, 7)), damaged(update(2, 5)), update(2, 6)]) == [(2, 6)]
        assert follower.fault is None

    def test_records_read_again_are_known(self) -> None:
        follower = UpdateFollower(DIGEST, position(1, 2))
        assert follow(follower, [opened(1), update(1, 1), update(1, 2), update(1, 3)]) == [(1, 3)]
        assert dict(follower.skipped) == {"known": 3}

    def test_an_image_of_an_epoch_goes_on_in_it(self) -> None:
        assert follow(UpdateFollower(DIGEST, position(4, 7)), [update(4, 8), update(4, 9)]) == [(4, 8), (4, 9)]

    def test_a_log_that_begins_in_the_middle_needs_an_image(self) -> None:
        follower = UpdateFollower(DIGEST)
        assert follow(follower, [update(3, 8), update(3, 9)]) == []
        assert follower.fault is not None
        assert "never opened here" in follower.fault

    def test_an_epoch_that_builds_on_something_needs_an_image(self) -> None:
        follower = UpdateFollower(DIGEST)
        assert follow(follower, [opened(3, base=(2, 8)), update(3, 1)]) == []
        assert follower.fault is not None
        assert "needs an image" in follower.fault

    @pytest.mark.parametrize(("held", "goes_on"), [((2, 8), True), ((2, 9), True), ((2, 7), False), ((1, 99), False)])
    def test_an_epoch_needs_what_it_builds_on(self, held: tuple[int, int], goes_on: bool) -> None:
        follower = UpdateFollower(DIGEST, position(*held))
        handed_out = follow(follower, [opened(3, "b", base=(2, 8)), update(3, 1, "b")])
        assert handed_out == ([(3, 1)] if goes_on else [])
        assert (follower.fault is None) == goes_on

    @pytest.mark.parametrize("base", [(1, 1), None])
    def test_a_new_epoch_mends_a_gap(self, base: tuple[int, int] | None) -> None:
        follower = UpdateFollower(DIGEST)
        log = [opened(1), update(1, 1), update(1, 3), opened(2, "b", base=base), update(2, 1, "b")]
        assert follow(follower, log) == [(1, 1), (2, 1)]
        assert follower.fault is None

    def test_a_new_epoch_built_past_the_gap_does_not_mend_it(self) -> None:
        follower = UpdateFollower(DIGEST)
        log = [opened(1), update(1, 1), update(1, 3), opened(2, "b", base=(1, 3)), update(2, 1, "b")]
        assert follow(follower, log) == [(1, 1)]
        assert follower.fault is not None

    def test_parts_count_only_when_whole(self) -> None:
        big = parts(1, 1, keys=list(range(200)), max_bytes=1_600)
        assert len(big) > 2
        follower = UpdateFollower(DIGEST)
        assert follow(follower, [opened(1), *big[:-1]]) == []
        assert follow(follower, [big[0], big[-1], update(1, 2)], first_offset=50) == [(1, 1), (1, 2)]
        assert dict(follower.skipped) == {"known": 1}

    def test_an_open_drops_the_parts_of_a_dead_trainer(self) -> None:
        big = parts(1, 1, keys=list(range(200)), max_bytes=1_600)
        follower = UpdateFollower(DIGEST)
        assert follow(follower, [opened(1), *big[:-1], opened(2, "b"), big[-1], update(2, 1, "b")]) == [(2, 1)]
        assert follower.fault is None

    def test_a_missing_part_is_a_gap(self) -> None:
        big = parts(1, 1, keys=list(range(200)), max_bytes=1_600)
        follower = UpdateFollower(DIGEST)
        assert follow(follower, [opened(1), big[0], big[2]]) == []
        assert follower.fault is not None
        assert "a gap" in follower.fault


def read(log: TrainerLog, *records: bytes) -> None:
    for record in records:
        log.feed(record)


class TestTrainerLog:
    def test_the_first_trainer(self) -> None:
        log = TrainerLog(DIGEST, "a")
        own = log.open(created_ms=5)
        assert own == Open(epoch=1, digest=DIGEST, trainer="a", created_ms=5, base=None)
        read(log, encode_open(own))
        assert (log.status, log.epoch) == ("live", 1)

    def test_a_successor_opens_the_next_epoch_and_sends_what_it_missed(self) -> None:
        log = TrainerLog(DIGEST, "b", since=position(1, 1))
        read(log, update(1, 2, key=7), update(1, 3, key=8))
        own = log.open(created_ms=5)
        assert (own.epoch, own.base) == (2, (1, 1))
        read(log, update(1, 4, key=9), encode_open(own), update(1, 5, key=10))
        assert log.status == "live"
        assert log.dirty.keys["items"].tolist() == [7, 8, 9, 102, 103, 104]
        assert log.dirty.tails["items"].tolist() == [2, 3, 4]

    def test_without_a_snapshot_it_still_opens_a_higher_epoch(self) -> None:
        log = TrainerLog(DIGEST, "b")
        read(log, opened(4), update(4, 1), opened(9, digest="other"), b"noise", damaged(update(4, 2)))
        assert log.open(created_ms=5).epoch == 5
        assert dict(log.skipped) == {"other_model": 1, "malformed": 1, "damaged": 1}
        assert log.dirty.keys == {}

    @pytest.mark.parametrize("epoch", [2, 3])
    def test_whose_open_comes_first_wins(self, epoch: int) -> None:
        log = TrainerLog(DIGEST, "b", since=position(1, 1))
        own = log.open(created_ms=5)
        read(log, opened(epoch, "c"), encode_open(own))
        assert log.status == "lost"

    def test_an_equal_open_after_ours_has_lost(self) -> None:
        log = TrainerLog(DIGEST, "b", since=position(1, 1))
        read(log, encode_open(log.open(created_ms=5)), opened(2, "c"))
        assert log.status == "live"

    def test_a_newer_trainer_ends_it(self) -> None:
        log = TrainerLog(DIGEST, "b")
        read(log, encode_open(log.open(created_ms=5)), update(1, 1, "b"), opened(2, "c"), update(1, 2, "b"))
        assert log.status == "lost"
        assert log.confirmed == 1

    def test_only_whole_own_updates_are_confirmed(self) -> None:
        log = TrainerLog(DIGEST, "b")
        big = parts(1, 2, "b", keys=list(range(200)), max_bytes=1_600)
        read(log, encode_open(log.open(created_ms=5)), update(1, 1, "b"), *big[:-1])
        assert log.confirmed == 1
        read(log, big[-1], update(1, 9, "c"))
        assert log.confirmed == 2

    def test_an_own_update_that_the_log_does_not_hold_whole_is_torn(self) -> None:
        log = TrainerLog(DIGEST, "b")
        big = parts(1, 4, "b", keys=list(range(200)), max_bytes=1_600)
        read(log, encode_open(log.open(created_ms=5)), update(1, 1, "b"))
        read(log, damaged(update(1, 7, "c")), damaged(update(2, 9, "b")), b"noise")
        assert (log.torn, log.confirmed) == (None, 1)
        read(log, damaged(update(1, 2, "b")))
        assert (log.torn, log.confirmed) == (2, 1)
        read(log, update(1, 3, "b"))
        assert (log.torn, log.confirmed) == (2, 3)
        read(log, big[0], *big[2:])
        assert (log.torn, log.confirmed) == (4, 3)
        read(log, update(1, 5, "b"), update(1, 7, "b"))
        assert (log.torn, log.confirmed) == (7, 5)
        read(log, update(1, 8, "b"))
        assert (log.torn, log.confirmed) == (7, 8)

    def test_a_snapshot_of_a_void_line_is_found_out(self) -> None:
        log = TrainerLog(DIGEST, "c", since=position(1, 9, "a"))
        read(log, update(2, 4, "b"))
        assert log.fault is not None
        with pytest.raises(ValueError, match="void"):
            log.open(created_ms=5)

    def test_it_opens_once(self) -> None:
        log = TrainerLog(DIGEST, "a")
        log.open(created_ms=5)
        with pytest.raises(ValueError, match="once"):
            log.open(created_ms=6)


def test_what_several_updates_changed_is_the_union_of_it() -> None:
    rng = np.random.default_rng(0)
    parts = [
        Dirty({t: rng.integers(0, 50, 9).astype(np.uint64) for t in tables}, {"items": rng.integers(0, 9, 3)})
        for tables in (("items",), ("users",), ("items", "users"), ())
    ]
    union = Dirty.union(parts)
    assert {table: keys.tolist() for table, keys in union.keys.items()} == {
        table: sorted({int(key) for part in parts for key in part.keys.get(table, ())}) for table in ("items", "users")
    }
    assert {table: tails.tolist() for table, tails in union.tails.items()} == {
        "items": sorted({int(row) for part in parts for row in part.tails["items"]})
    }
    assert Dirty.union([]) == Dirty()
