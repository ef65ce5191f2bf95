"""`tiderank snapshot ls|verify|restore`, and the settings of reading."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ranker.snapshots.snapshot import list_snapshots, write_state
from streams.cli import cli
from streams.config.snapshots import shard_reader
from streams.errors import StartError
from tests.ranker.snapshots.stores import state

NAMES = ["e00000001-n000000000001", "e00000001-n000000000002"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in (1, 2):
        write_state(str(tmp_path / "root"), state(number), digest="d" * 16, created_ms=1_700_000_000_000 + number)
    return tmp_path / "root"


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["snapshot", *args])


def refused(*args: str) -> str:
    result = run(*args)
    assert isinstance(result.exception, StartError)
    return str(result.exception)


def damage(root: Path) -> None:
    path = root / NAMES[1] / "image-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class TestLs:
    def test_a_line_each(self, root: Path) -> None:
        _, first, second = run("ls", "--snapshots", str(root)).output.splitlines()
        assert first.split() == [NAMES[0], "1", "1", "2023-11-14", "22:13:20", first.split()[5], "2", "d" * 16, "yes"]
        assert second.split()[:3] == [NAMES[1], "1", "2"]

    def test_the_default_is_the_setting(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TIDERANK_SNAPSHOTS", f"file://{root}")
        rows = json.loads(run("ls", "--json").output)
        assert [(row["name"], row["update"], row["whole"]) for row in rows] == [
            (NAMES[0], 1, True),
            (NAMES[1], 2, True),
        ]
        assert rows[0]["bytes"] == sum(f.stat().st_size for f in (root / NAMES[0]).glob("*.safetensors"))

    def test_what_is_not_whole_says_why(self, root: Path) -> None:
        (root / NAMES[0] / "training-00000.safetensors").unlink()
        (root / NAMES[1] / "manifest.json").unlink()
        first, second = json.loads(run("ls", "--snapshots", str(root), "--json").output)
        assert (first["whole"], first["problem"]) == (False, "missing or of another size: training-00000.safetensors")
        assert (second["whole"], second["problem"][:11]) == (False, "no manifest")
        assert "no: no manifest: being written, gone back from" in run("ls", "--snapshots", str(root)).output

    def test_a_place_that_is_not_there_is_an_error_and_an_empty_one_is_not(self, tmp_path: Path) -> None:
        assert "is not there: name the root" in refused("ls", "--snapshots", str(tmp_path / "nowhere"))
        assert run("ls", "--snapshots", str(tmp_path), "--json").output == "[]\n"

    def test_a_store_that_cannot_be_opened_here(self, tmp_path: Path) -> None:
        assert "fsspec can open here" in refused("ls", "--snapshots", "carrierpigeon://loft")

    def test_no_permission(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def ls(*args: object, **options: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.ls", ls)  # root may read everything
        assert "no permission" in refused("ls", "--snapshots", str(root))


class TestVerify:
    def test_all_is_well(self, root: Path) -> None:
        result = run("verify", "--snapshots", str(root))
        assert (result.exit_code, result.output) == (0, f"{NAMES[0]} is whole\n{NAMES[1]} is whole\n")

    def test_what_is_wrong_is_said(self, root: Path) -> None:
        damage(root)
        result = run("verify", "--snapshots", str(root))
        assert result.exit_code == 1
        assert f"{NAMES[0]} is whole\n{NAMES[1]} is NOT whole\n" in result.output
        assert "image-00000.safetensors is not what was written: its digest" in result.output
        first, second = json.loads(run("verify", "--snapshots", str(root), "--json").output)
        assert (first, second["ok"], len(second["problems"])) == (
            {"name": NAMES[0], "ok": True, "problems": []},
            False,
            1,
        )
        assert run("verify", NAMES[0], "--snapshots", str(root)).exit_code == 0

    def test_one_without_a_manifest_counts_if_it_is_asked_for(self, root: Path) -> None:
        (root / NAMES[1] / "manifest.json").unlink()
        assert run("verify", "--snapshots", str(root)).exit_code == 0
        result = run("verify", NAMES[1], "--snapshots", str(root))
        assert (result.exit_code, "no manifest" in result.output) == (1, True)

    def test_an_unknown_name(self, root: Path) -> None:
        assert f"which has {NAMES[0]}, {NAMES[1]}" in refused("verify", "e1", "--snapshots", str(root))

    def test_none(self, tmp_path: Path) -> None:
        assert run("verify", "--snapshots", str(tmp_path)).output == f"no snapshots in {tmp_path}\n"


class TestRestore:
    def test_a_whole_copy(self, root: Path, tmp_path: Path) -> None:
        target = tmp_path / "elsewhere"
        result = run("restore", NAMES[0], "--to", str(target), "--snapshots", str(root), "--json")
        (copy,) = list_snapshots(str(target), "d" * 16)
        assert json.loads(result.output)["to"] == copy.url
        assert run("verify", "--snapshots", str(target)).exit_code == 0
        again = refused("restore", NAMES[0], "--to", str(target), "--snapshots", str(root))
        assert "is there already" in again

    def test_a_damaged_one_is_not_copied(self, root: Path, tmp_path: Path) -> None:
        damage(root)
        why = refused("restore", NAMES[1], "--to", str(tmp_path / "to"), "--snapshots", str(root))
        assert "image-00000.safetensors is not what was written" in why
        assert list((tmp_path / "to").iterdir()) == []
        (root / NAMES[1] / "manifest.json").unlink()
        why = refused("restore", NAMES[1], "--to", str(tmp_path / "to"), "--snapshots", str(root))
        assert "cannot be copied: no manifest" in why

    def test_a_target_that_cannot_be_written(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert str(tmp_path / "file") in refused(
            "restore", NAMES[0], "--to", str(tmp_path / "file"), "--snapshots", str(root)
        )


def test_the_settings_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = write_state(f"file://{tmp_path}/root", state(), digest="d", created_ms=0)
    monkeypatch.setenv("TIDERANK_SNAPSHOT_STREAMS", "3")
    monkeypatch.setenv("TIDERANK_SNAPSHOT_CACHE", str(tmp_path / "near"))
    monkeypatch.setenv("TIDERANK_SNAPSHOT_CACHE_SHARED", f"file://{tmp_path}/shared")
    shard_reader().load(snapshot.url, snapshot.manifest.shards)
    for name in ("near", "shared"):
        assert len(list((tmp_path / name).iterdir())) == 2
    for name, wrong in (("STREAMS", "0"), ("STREAMS", "many"), ("CACHE_BYTES", "-1"), ("CACHE_SHARED", "nowhere://x")):
        with monkeypatch.context() as one:
            one.setenv(f"TIDERANK_SNAPSHOT_{name}", wrong)
            with pytest.raises(StartError, match=r"whole number|store that fsspec"):
                shard_reader()


def test_listing_commands_loads_no_torch() -> None:
    code = "import sys, streams.operations.snapshot; sys.exit(int('torch' in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
