"""What a power cut leaves: the disk may keep a name and lose what it names, unless it was told to write both down."""

import os
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from ranker.snapshots.reader import ShardReader
from ranker.snapshots.snapshot import copy_snapshot, write_state
from tests.ranker.snapshots.stores import state


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """("sync" | "rename", name of a file or folder), in order. A renamed file stands under its new name."""
    calls: list[tuple[str, str]] = []
    fsync, move = os.fsync, LocalFileSystem.mv

    def traced_fsync(descriptor: int) -> None:
        fsync(descriptor)
        calls.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name.split(".json.")[0]))

    def traced_move(self: LocalFileSystem, source: str, target: str, **options: object) -> None:
        move(self, source, target, **options)
        calls.append(("rename", Path(target).name))

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(LocalFileSystem, "mv", traced_move)
    return calls


def check(calls: list[tuple[str, str]], root: Path, folder: str, shards: list[str]) -> None:
    """All that the manifest names is on the disk before the manifest has its name, and that before it counts."""
    named = calls.index(("rename", "manifest.json"))
    before, after = calls[:named], calls[named + 1 :]
    assert {("sync", "manifest"), ("sync", root.name), ("sync", folder)} <= set(before)
    for shard in shards:
        written = max(at for at, (what, name) in enumerate(before) if what == "sync" and name.startswith(shard))
        assert ("sync", folder) in before[written:], "the folder knows the shard"
    assert ("sync", folder) in after


def test_a_snapshot_is_on_the_disk_before_its_manifest_is(tmp_path: Path, trace: list[tuple[str, str]]) -> None:
    written = write_state(str(tmp_path), state(1), digest="d", created_ms=1)
    check(trace, tmp_path, written.name, [shard.file for shard in written.manifest.shards])


def test_so_is_a_copy(tmp_path: Path, trace: list[tuple[str, str]]) -> None:
    written = write_state("memory://cut", state(1), digest="d", created_ms=1)
    assert trace == [], "other stores keep what they have taken"
    (tmp_path / "to").mkdir()
    copied = copy_snapshot(written, str(tmp_path / "to"), ShardReader())
    check(trace, tmp_path / "to", copied.name, [shard.file for shard in copied.manifest.shards])
