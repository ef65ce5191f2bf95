"""The public data sets, from their real packages."""

import itertools
from pathlib import Path

import pytest

from streams.config.load import load_recipe
from streams.datasets.logs import fetch
from streams.datasets.logs.fetch import OBP, Package, Unavailable, data_file
from streams.datasets.logs.sources import open_log
from streams.datasets.logs.traffic import LoggedImpression
from streams.errors import Refused
from streams.wire.record import Record
from streams.wire.topics import IMPRESSIONS


@pytest.fixture(scope="session")
def packages() -> None:
    try:
        for log in ("obd", "ml-100k"):
            next(iter(open_log(log).read()))
    except Unavailable as reason:
        pytest.skip(str(reason))


def read(name: str) -> list[LoggedImpression]:
    return list(open_log(name).read())


@pytest.mark.usefixtures("packages")
class TestOpenBandit:
    @pytest.mark.parametrize(("name", "clicks", "items"), [("obd", 38, 80), ("obd/bts/men", 69, 34)])
    def test_has_the_published_rows(self, name: str, clicks: int, items: int) -> None:
        rows = read(name)
        assert len(rows) == 10_000
        assert sum(row.clicked for row in rows) == clicks
        assert len({row.item for row in rows}) == items
        assert {row.position for row in rows} == {0, 1, 2}
        assert all(a.event_ms <= b.event_ms for a, b in itertools.pairwise(rows))

    def test_every_feature_has_its_slot(self) -> None:
        log = open_log("obd")
        row = next(iter(log.read()))
        slots = {slot.name: slot.kind for slot in log.model.slots}
        features = {**(row.user_features or {}), **(row.item_features or {})}
        assert set(features) <= set(slots)
        assert all(isinstance(value, float) == (slots[name] == "numeric") for name, value in features.items())


@pytest.mark.usefixtures("packages")
class TestMovieLens:
    def test_has_the_published_rows(self) -> None:
        rows = read("ml-100k")
        assert len(rows) == 100_000
        assert len({row.user for row in rows}) == 943
        assert len({row.item for row in rows}) == 1682
        assert sum(row.clicked for row in rows) == 55_375  # ratings of 4 and 5
        assert all(a.event_ms <= b.event_ms for a, b in itertools.pairwise(rows))

    def test_every_feature_has_its_slot(self) -> None:
        log = open_log("ml-100k")
        row = next(iter(log.read()))
        assert {*(row.user_features or {}), *(row.item_features or {})} <= {slot.name for slot in log.model.slots}
        assert (row.item_features or {})["genre"] == ["Comedy", "Romance"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("criteo", "a log is obd, obd/POLICY/CAMPAIGN, ml-100k or a file with --map"),
        ("obd/best/all", "obd has policies"),
    ],
)
def test_an_unknown_log_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_log(name)


def test_a_package_that_cannot_be_fetched_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip then looks nowhere, as without a network
    with pytest.raises(Unavailable, match=r"pip could not fetch obp==0.4.1.*Put obp-0.4.1-py3-none-any.whl into"):
        data_file(OBP, "anything")


def test_a_package_that_was_tampered_with_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path)
    package = Package("obp", "0.4.1", OBP.sha256)
    (tmp_path / package.wheel).write_bytes(b"not what it was")
    with pytest.raises(Unavailable, match=f"must have SHA-256 {OBP.sha256}"):
        data_file(package, "anything")
    assert not (tmp_path / package.wheel).exists()


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("log", ["ml-100k", "obd"])
def test_while_a_log_is_replayed_its_times_are_taken_and_none_in_seconds(log: str) -> None:
    times, first = load_recipe(f"log:{log}").times, next(iter(open_log(log).read()))
    record = Record(IMPRESSIONS, 0, 0, 1_800_000_000_000, None, b"", ())
    assert times.check(first.event_ms, record) == first.event_ms
    with pytest.raises(Refused, match="min_event_ms"):
        times.check(first.event_ms // 1000, record)


@pytest.mark.parametrize("name", ["ml-100k", "obd", "obd/bts/men"])
def test_a_log_with_columns_of_its_own_takes_no_mapping(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} has its own columns: leave --map out"):
        open_log(name, tmp_path / "shop.toml")
