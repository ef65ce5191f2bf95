"""Which snapshots a policy keeps, by hand; and that pruning does what it says."""

from pathlib import Path

import pytest

from ranker.snapshots.retention import Retention
from ranker.snapshots.snapshot import survey, write_state
from tests.ranker.snapshots.stores import state

HOUR = 3_600_000
DAY = 24 * HOUR


def test_the_newest() -> None:
    assert Retention(newest=2).kept([1, 2, 3]) == {1, 2}
    assert Retention(newest=9).kept([1, 2, 3]) == {0, 1, 2}
    assert Retention().kept([]) == set()


def test_the_newest_of_each_hour_that_has_one() -> None:
    created: list[int | None] = [0, 10, HOUR, HOUR + 10, 5 * HOUR, 5 * HOUR + 10]
    assert Retention(newest=1, hourly=2).kept(created) == {3, 5}
    assert Retention(newest=1, hourly=3).kept(created) == {1, 3, 5}
    assert Retention(newest=1, hourly=99).kept(created) == {1, 3, 5}


def test_days_reach_further_back_than_hours() -> None:
    created: list[int | None] = [day * DAY + hour * HOUR for day in range(3) for hour in range(24)]
    assert Retention(newest=2, hourly=3, daily=3).kept(created) == {23, 47, 69, 70, 71}


def test_one_whose_time_nobody_knows_counts_among_the_newest_only() -> None:
    assert Retention(newest=1, hourly=9).kept([None, 0, None]) == {1, 2}


@pytest.mark.parametrize("wrong", [{"newest": 0}, {"hourly": -1}, {"daily": -1}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="newest snapshot must be kept"):
        Retention(**wrong)


@pytest.mark.parametrize("root", ["memory://kept", "file"])
def test_pruning_keeps_what_the_policy_wants(root: str, tmp_path: Path) -> None:
    root = str(tmp_path) if root == "file" else root
    keep = Retention(newest=2, hourly=2)
    for number in range(1, 9):  # two an hour: 1, 2 | 3, 4 | 5, 6 | 7, 8
        write_state(root, state(number), digest="d", created_ms=(number - 1) // 2 * HOUR + number, keep=keep)
    assert [int(found.name[-12:]) for found in survey(root)] == [6, 7, 8]


def test_what_cannot_be_removed_is_no_failure_of_the_snapshot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(str(tmp_path), state(1), digest="d", created_ms=0)

    def refused(*args: object, **options: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.rm", refused)
    written = write_state(str(tmp_path), state(2), digest="d", created_ms=0, keep=Retention(newest=1))
    assert written.manifest.position.number == 2
    assert "could not be removed: read-only" in caplog.text
