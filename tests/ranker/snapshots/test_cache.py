"""Caches of shards: local before shared before the origin, and never believed."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from ranker.snapshots.cache import SUFFIX, ShardCache
from ranker.snapshots.reader import ShardReader
from ranker.snapshots.retention import Retention
from ranker.snapshots.shards import read_shard
from ranker.snapshots.snapshot import Snapshot, load_training_state, write_state
from tests.ranker.snapshots import stores
from tests.ranker.snapshots.stores import CountedStore, state

stores.register()
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.ranker.snapshots.stores"])
LARGE = 10**9


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CountedStore.fresh()


def origin(number: int = 1) -> Snapshot:
    return write_state("counted://origin", state(number), digest="d", created_ms=0, keep=Retention(newest=9))


def load(snapshot: Snapshot, *caches: ShardCache) -> int:
    """Checks that the right tensors come; returns the reads of the origin's shards."""
    CountedStore.reads.clear()
    found = load_training_state(snapshot, ShardReader(3, caches))
    expected = state(snapshot.manifest.position.number).training()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    return CountedStore.shard_reads()


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


@pytest.mark.parametrize("shared_url", ["memory://shared-{}", "file"])
def test_the_second_replica_reads_nothing_from_the_origin(shared_url: str, tmp_path: Path) -> None:
    url = str(tmp_path / "shared") if shared_url == "file" else shared_url.format(tmp_path.name)
    snapshot = origin()
    first = ShardCache(str(tmp_path / "first"), LARGE), ShardCache(url, LARGE)
    assert load(snapshot, *first) > 0
    second = ShardCache(str(tmp_path / "second"), LARGE), ShardCache(url, LARGE)
    assert load(snapshot, *second) == 0
    CountedStore.store.clear()  # the origin is gone, and the shared cache is not asked again
    assert load(snapshot, ShardCache(str(tmp_path / "second"), LARGE)) == 0
    assert [e.name for e in entries(tmp_path / "first")] == [e.name for e in entries(tmp_path / "second")]


def test_equal_shards_of_two_snapshots_are_read_once(tmp_path: Path) -> None:
    cache = ShardCache(str(tmp_path), LARGE)
    one = origin(1)
    other = write_state("counted://other", state(1), digest="d", created_ms=5)
    assert load(one, cache) > 0
    assert load(other, cache) == 0
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"x", lambda _: b""])
def test_a_damaged_entry_is_dropped_and_read_from_the_origin(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot, cache = origin(), ShardCache(str(tmp_path), LARGE)
    load(snapshot, cache)
    (entry,) = entries(tmp_path)
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    assert load(snapshot, cache) > 0
    assert "dropped" in caplog.text
    assert entry.read_bytes() == good
    assert load(snapshot, cache) == 0


def test_a_cache_that_cannot_be_used_is_no_reason_to_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert load(origin(), ShardCache(str(tmp_path / "file"), LARGE), ShardCache(str(tmp_path / "good"), LARGE)) > 0
    assert str(tmp_path / "file") in caplog.text
    assert load(origin(), ShardCache(str(tmp_path / "file"), LARGE), ShardCache(str(tmp_path / "good"), LARGE)) == 0


class TestRoom:
    def test_the_least_recently_used_go_first(self, tmp_path: Path) -> None:
        snapshots = [origin(number) for number in range(1, 5)]
        size = snapshots[0].manifest.parts["training"][0].size
        cache = ShardCache(str(tmp_path), 3 * size)
        for age, snapshot in enumerate(snapshots[:3]):
            load(snapshot, cache)
            os.utime(tmp_path / f"{snapshot.manifest.parts['training'][0].blake2b}{SUFFIX}", (age, age))
        assert load(snapshots[0], cache) == 0  # so 2 is the one used longest ago
        assert load(snapshots[3], cache) > 0
        assert len(entries(tmp_path)) == 3
        assert [load(snapshots[i], cache) == 0 for i in (0, 2, 3)] == [True] * 3
        assert load(snapshots[1], cache) > 0

    def test_what_is_larger_than_the_cache_is_not_kept(self, tmp_path: Path) -> None:
        snapshot = origin()
        cache = ShardCache(str(tmp_path), snapshot.manifest.parts["training"][0].size - 1)
        assert load(snapshot, cache) > 0
        assert entries(tmp_path) == []
        with pytest.raises(ValueError, match="at least one byte"):
            ShardCache(str(tmp_path), 0)

    def test_remains_of_killed_processes_go_after_a_while(self, tmp_path: Path) -> None:
        old, young = tmp_path / "a.tmp", tmp_path / "b.tmp"
        for path in (old, young):
            path.write_bytes(b"half")
        hours_ago = time.time() - 7_200
        os.utime(old, (hours_ago, hours_ago))
        load(origin(), ShardCache(str(tmp_path), LARGE))
        assert (old.exists(), young.exists()) == (False, True)


def work(folder: str, urls: list[str], seed: int) -> None:
    """One of several processes on a cache that holds half of what they want."""
    from ranker.snapshots.snapshot import list_snapshots

    snapshots = [list_snapshots(url, "d")[0] for url in urls]
    cache = ShardCache(folder, 3 * snapshots[0].manifest.parts["training"][0].size)
    torch.manual_seed(seed)
    for index in torch.randint(len(snapshots), (12,)).tolist():
        number = snapshots[index].manifest.position.number
        found = load_training_state(snapshots[index], ShardReader(2, [cache]))
        assert all(torch.equal(found[name], t) for name, t in state(number).training().items())


def test_an_entry_that_another_process_removes_while_it_is_read_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, cache = origin(), ShardCache(str(tmp_path), LARGE)
    load(snapshot, cache)

    def read_and_lose(*given: Any) -> Any:
        data = read_shard(*given)
        Path(given[2]).unlink()
        return data

    monkeypatch.setattr("ranker.snapshots.cache.read_shard", read_and_lose)
    assert load(snapshot, cache) == 0
    assert entries(tmp_path) == []


def test_several_processes_at_once(tmp_path: Path) -> None:
    urls = [f"file://{tmp_path}/origin-{number}" for number in range(6)]
    for number, url in enumerate(urls):
        write_state(url, state(number), digest="d", created_ms=0)
    folder = tmp_path / "cache"
    workers = [PROCESSES.Process(target=work, args=(str(folder), urls, seed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert 1 <= len(entries(folder)) <= 3
    assert not list(folder.glob("*.tmp"))


def test_several_threads_at_once(tmp_path: Path) -> None:
    snapshots = [origin(number) for number in range(1, 5)]
    cache = ShardCache(str(tmp_path), 2 * snapshots[0].manifest.parts["training"][0].size)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda s: load_training_state(s, ShardReader(2, [cache])), snapshots * 5))
    for number, tensors in zip([1, 2, 3, 4] * 5, found, strict=True):
        assert torch.equal(tensors["step"], torch.tensor(number))
