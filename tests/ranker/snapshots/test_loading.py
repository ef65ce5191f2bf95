"""Shards read by many streams at once, from any store; what is wrong with them is found and named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ranker.snapshots.byte_streams import ByteStreams
from ranker.snapshots.reader import ShardReader
from ranker.snapshots.snapshot import (
    Snapshot,
    SnapshotError,
    copy_snapshot,
    list_snapshots,
    load_training_state,
    survey,
    write_state,
)
from tests.ranker.snapshots import stores
from tests.ranker.snapshots.stores import CountedStore, state

stores.register()
SMALL_RANGE = 1_000


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ranker.snapshots.byte_streams.RANGE_BYTES", SMALL_RANGE)
    CountedStore.fresh()


def write(root: str, **options: Any) -> Snapshot:
    return write_state(root, state(**options), digest="d", created_ms=0)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("streams", [1, 2, 7])
@pytest.mark.parametrize("shard_bytes", [3_000, 10**9])
@pytest.mark.parametrize("root", ["memory://many", "file"])
def test_any_number_of_streams_reads_what_was_written(
    root: str, shard_bytes: int, streams: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ranker.snapshots.shards.MAX_SHARD_BYTES", shard_bytes)
    snapshot = write(str(tmp_path) if root == "file" else root)
    reader = ShardReader(streams)
    assert same(load_training_state(snapshot, reader), state().training())
    assert same(reader.load(snapshot.url, snapshot.manifest.parts["image"]), state().image())
    assert reader.verify(snapshot.url, snapshot.manifest.shards) == []


def test_an_asynchronous_store_will_do(tmp_path: Path) -> None:
    write(str(tmp_path))
    (snapshot,) = list_snapshots(f"asynchronous://{tmp_path}", "d")
    assert snapshot.url.startswith("asynchronous://")
    assert same(load_training_state(snapshot, ShardReader(4)), state().training())


def test_one_large_shard_is_read_by_all_streams_at_once() -> None:
    snapshot = write("counted://root", elements=2_000)
    (shard,) = snapshot.manifest.parts["training"]
    assert -(-shard.size // SMALL_RANGE) == 9
    CountedStore.wait_for(3)  # 9 ranges in rounds of 3: with fewer streams none would ever return
    assert same(load_training_state(snapshot, ShardReader(3)), state(elements=2_000).training())


class TestMemory:
    def test_what_is_read_ahead_is_bounded(self) -> None:
        CountedStore().pipe_file("counted://long", bytes(100 * SMALL_RANGE))
        with ByteStreams(3) as streams:
            read = streams.read(CountedStore(), "counted://long", 100 * SMALL_RANGE)
            next(read)
            assert sum(CountedStore.reads.values()) <= 6
            assert sum(map(len, read)) == 99 * SMALL_RANGE

    def test_a_size_that_the_file_has_not_is_refused_before_memory_is_taken(self, tmp_path: Path) -> None:
        snapshot = write(str(tmp_path))
        manifest = json.loads((tmp_path / "e00000001-n000000000001/manifest.json").read_text())
        manifest["parts"]["training"][0]["size"] = 2**44  # 16 TiB
        (tmp_path / "e00000001-n000000000001/manifest.json").write_text(json.dumps(manifest))
        (listed,) = list_snapshots(str(tmp_path), "d")
        with pytest.raises(SnapshotError, match=r"17,592,186,044,416 were written"):
            load_training_state(listed)
        assert listed.url == snapshot.url


class TestDamage:
    """Damage to one shard; the message names the file and says what to do."""

    def shard(self, snapshot: Snapshot) -> Path:
        return Path(snapshot.url.removeprefix("file://")) / snapshot.manifest.parts["training"][0].file

    @pytest.mark.parametrize("at_byte", [0, 9_999, -1])
    def test_a_changed_byte(self, tmp_path: Path, at_byte: int) -> None:
        snapshot = write(str(tmp_path))
        data = bytearray(self.shard(snapshot).read_bytes())
        data[at_byte] ^= 1
        self.shard(snapshot).write_bytes(data)
        self.refused(
            snapshot, r"training-00000.safetensors is not what was written: its digest .*take an older snapshot"
        )

    def test_a_short_file(self, tmp_path: Path) -> None:
        snapshot = write(str(tmp_path))
        self.shard(snapshot).write_bytes(self.shard(snapshot).read_bytes()[:-1])
        self.refused(snapshot, r"training-00000.safetensors is not what was written: it has .* bytes, .* were written")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        snapshot = write(str(tmp_path))
        self.shard(snapshot).unlink()
        self.refused(snapshot, r"lacks training-00000.safetensors: take an older snapshot")

    def test_a_store_that_fails(self, tmp_path: Path) -> None:
        snapshot = write(str(tmp_path))
        self.shard(snapshot).unlink()
        self.shard(snapshot).mkdir()
        self.refused(snapshot, r"training-00000.safetensors (cannot be read|is not what)")

    def refused(self, snapshot: Snapshot, why: str) -> None:
        with pytest.raises(SnapshotError, match=why):
            load_training_state(snapshot)
        (problem,) = ShardReader().verify(snapshot.url, snapshot.manifest.shards)
        with pytest.raises(SnapshotError, match=why):
            raise SnapshotError(problem)
        with pytest.raises(SnapshotError, match=why):
            copy_snapshot(snapshot, "memory://refused", ShardReader())
        assert survey("memory://refused") == []

    def test_a_file_that_ends_while_it_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        snapshot = write("counted://root")
        whole = CountedStore.cat_file

        def ends(self: CountedStore, path: str, start: int = 0, end: int | None = None, **options: Any) -> bytes:
            return whole(self, path, start, end, **options)[: max(0, 5_000 - start)]

        monkeypatch.setattr(CountedStore, "cat_file", ends)
        with pytest.raises(SnapshotError, match="it ends after 5,000 bytes"):
            load_training_state(snapshot)

    @pytest.mark.parametrize(
        ("field", "value"), [("file", "../../x-00000.safetensors"), ("blake2b", "../up"), ("size", -1), ("size", 2**60)]
    )
    def test_a_manifest_cannot_name_other_places_nor_sizes(self, tmp_path: Path, field: str, value: object) -> None:
        write(str(tmp_path))
        path = tmp_path / "e00000001-n000000000001/manifest.json"
        manifest = json.loads(path.read_text())
        manifest["parts"]["image"][0][field] = value
        path.write_text(json.dumps(manifest))
        assert list_snapshots(str(tmp_path), "d") == []
        (found,) = survey(str(tmp_path))
        assert "its manifest cannot be read" in found.problem


class TestCopies:
    @pytest.mark.parametrize("target", ["memory://copies", "file"])
    def test_a_copy_is_the_same_snapshot(self, target: str, tmp_path: Path) -> None:
        snapshot = write("memory://original", number=4)
        root = f"{tmp_path}/new/place" if target == "file" else target
        copy = copy_snapshot(snapshot, root, ShardReader())
        assert list_snapshots(root, "d") == [copy]
        assert copy.manifest == snapshot.manifest
        assert same(load_training_state(copy), state(4).training())
        with pytest.raises(ValueError, match="is there already"):
            copy_snapshot(snapshot, root, ShardReader())


def test_reading_needs_a_stream() -> None:
    with pytest.raises(ValueError, match="at least one stream, got 0"):
        ShardReader(0)
