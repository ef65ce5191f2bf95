"""A writer that is killed leaves nothing that could be taken for a snapshot, and nothing for good."""

import json
import threading
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from ranker.snapshots import snapshot
from ranker.snapshots.reader import ShardReader
from ranker.snapshots.retention import Retention
from ranker.snapshots.snapshot import list_snapshots, survey, write_state
from ranker.updates import tensor_file
from tests.ranker.snapshots.stores import state

PROCESSES = get_context("forkserver")  # what is imported once in the server is there in each writer
PROCESSES.set_forkserver_preload(["tests.ranker.snapshots.stores"])


def die(here: Connection) -> None:
    """Says so, and waits to be killed."""
    here.send("here")
    threading.Event().wait()


def write_until(point: str, root: str, here: Connection) -> None:
    """Writes snapshot 2, and stops at a point until it is killed."""
    tensor_file.PIECE_BYTES = 1_000
    pieces = 0

    def go_on() -> None:
        nonlocal pieces
        pieces += 1
        if f"piece {pieces}" == point:
            die(here)

    if point == "manifest written, not renamed":
        LocalFileSystem.mv = lambda *args, **options: die(here)
    if point == "manifest renamed":
        snapshot._prune = lambda root, keep, needed: die(here)
    if point == "its manifest gone, its shards not":
        LocalFileSystem.rm = lambda *args, **options: die(here)
    write_state(root, state(2, elements=5_000), digest="d", created_ms=2, go_on=go_on)


def killed_at(point: str, root: Path) -> None:
    """kill -9 when the writer has come there."""
    here, there = PROCESSES.Pipe(duplex=False)
    writer = PROCESSES.Process(target=write_until, args=(point, str(root), there))
    writer.start()
    assert here.poll(120)
    writer.kill()
    writer.join()
    assert writer.exitcode == -9


@pytest.mark.parametrize("point", ["piece 1", "piece 7", "piece 40", "manifest written, not renamed"])
def test_killed_while_writing(point: str, tmp_path: Path) -> None:
    first = write_state(str(tmp_path), state(1), digest="d", created_ms=1)
    killed_at(point, tmp_path)
    assert list_snapshots(str(tmp_path), "d") == [first]
    remains = survey(str(tmp_path))[1]
    assert (remains.manifest, remains.problem[:11]) == (None, "no manifest")
    third = write_state(str(tmp_path), state(3), digest="d", created_ms=3)
    assert list_snapshots(str(tmp_path), "d") == [first, third]
    fourth = write_state(str(tmp_path), state(4), digest="d", created_ms=4, keep=Retention(newest=2))
    assert [found.name[-1] for found in survey(str(tmp_path))] == ["3", "4"]
    assert list_snapshots(str(tmp_path), "d") == [third, fourth]


def test_killed_once_the_manifest_is_there(tmp_path: Path) -> None:
    killed_at("manifest renamed", tmp_path)
    (whole,) = list_snapshots(str(tmp_path), "d")
    assert ShardReader().verify(whole.url, whole.manifest.shards) == []


def test_killed_while_an_old_one_is_removed(tmp_path: Path) -> None:
    for number in (-3, -2, -1):
        write_state(str(tmp_path), state(number + 4, epoch=0), digest="d", created_ms=number, keep=Retention(newest=4))
    killed_at("its manifest gone, its shards not", tmp_path)
    assert [s.manifest.position.number for s in list_snapshots(str(tmp_path), "d")] == [2, 3, 2]
    assert len(survey(str(tmp_path))) == 4
    write_state(str(tmp_path), state(3), digest="d", created_ms=3)
    assert [found.name[-1] for found in survey(str(tmp_path))] == ["3", "2", "3"]


def test_written_again_at_the_same_number_it_is_none_until_it_is_whole(tmp_path: Path) -> None:
    write_state(str(tmp_path), state(2, elements=8), digest="other", created_ms=1)
    killed_at("piece 7", tmp_path)
    assert [found.manifest for found in survey(str(tmp_path))] == [None]


def test_a_manifest_cut_short_by_a_dying_disk_is_no_snapshot(tmp_path: Path) -> None:
    first = write_state(str(tmp_path), state(1), digest="d", created_ms=1)
    write_state(str(tmp_path), state(2), digest="d", created_ms=1)
    path = tmp_path / "e00000001-n000000000002/manifest.json"
    text = path.read_text()
    for length in (0, 1, len(text) // 2, len(text) - 1):
        path.write_text(text[:length])
        assert list_snapshots(str(tmp_path), "d") == [first]
    path.write_text(json.dumps(json.loads(text) | {"format": 2}))
    assert list_snapshots(str(tmp_path), "d") == [first]
    assert survey(str(tmp_path))[1].problem == "it is of format 2, this program knows 1"
