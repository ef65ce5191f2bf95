"""What a person who mistypes sees: one line that says what to mend, and exit status 2; never a traceback."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from streams.cli import SECTIONS, cli


def tiderank(*words: str, **environment: str) -> tuple[int, str]:
    """Exit status, and what was said on the error stream, without librdkafka's own lines."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDERANK_")}
    result = subprocess.run(
        [sys.executable, "-m", "streams.cli", *words],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return result.returncode, "\n".join(line for line in result.stderr.splitlines() if not line.startswith("%"))


BROKER = {"TIDERANK_BOOTSTRAP": "127.0.0.1:1", "TIDERANK_REDIS_URL": "redis://127.0.0.1:1/0"}


@pytest.mark.parametrize(
    ("words", "environment", "says"),
    [
        (("dlq", "ls"), {"TIDERANK_BOOTSTRAP": "127.0.0.1:1"}, "TIDERANK_BOOTSTRAP"),
        (("dlq", "ls"), {"TIDERANK_BOOTSTRAP": "127.0.0.1:1", "TIDERANK_KAFKA_NO_SUCH": "1"}, "no.such"),
        (("up", "--workers", "--recipe", "no-such"), {}, "no-such"),
        (
            ("fit", "s3://bucket/x.parquet", "--label", "click"),
            {},
            "s3://bucket/x.parquet needs a package that is not installed: Install s3fs",
        ),
        (("fit", "x.csv", "--label", "click", "--model", "s3://bucket/model"), {}, "got the URL s3://bucket/model"),
        (("score", "model", "x.csv", "--out", "s3://bucket/x.csv"), {}, "got the URL s3://bucket/x.csv"),
        (("plan-embeddings", "--from", "s3://bucket/x.parquet"), {}, "s3://bucket/x.parquet needs a package"),
        (("prune", "--snapshot", "no-such://bucket"), {}, "snapshots at no-such://bucket are out of reach"),
        (("audit",), BROKER | {"TIDERANK_SNAPSHOTS": "no-such://bucket"}, "Protocol not known: no-such"),
    ],
)
def test_a_wrong_setting_is_one_line(
    words: tuple[str, ...], environment: dict[str, str], says: str, tmp_path: Path
) -> None:
    status, said = tiderank(*words, **environment, TIDERANK_DATA=str(tmp_path / "data"))
    assert status == 2
    assert said.startswith("tiderank: ")
    assert says in said
    assert "\n" not in said
    assert not (tmp_path / "data").exists()


def test_a_data_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    status, said = tiderank("up", TIDERANK_DATA=str(file))
    assert status == 2
    assert said.startswith(f"tiderank: {file}")
    assert "\n" not in said


def test_a_wrong_redis_url_is_named_without_its_password(tmp_path: Path) -> None:
    status, said = tiderank("up", TIDERANK_DATA=str(tmp_path), TIDERANK_REDIS_URL="http://me:secret@localhost")
    assert status == 2
    assert "TIDERANK_REDIS_URL must be like" in said
    assert "secret" not in said
    assert "\n" not in said


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_store_whose_package_is_missing_names_it() -> None:
    status, said = tiderank("rank", **BROKER, TIDERANK_SNAPSHOTS="s3://bucket/snapshots")
    assert status == 2
    assert said == (
        "tiderank: snapshots at s3://bucket/snapshots are out of reach: Install s3fs to access S3; or name a folder"
    )


def test_every_command_has_its_line_in_the_help_and_none_is_cut() -> None:
    defined = {*cli.commands, *type(cli).ELSEWHERE}
    listed = [name for section in SECTIONS.values() for name in section]
    assert sorted(listed) == sorted(defined), "SECTIONS in streams/cli.py has a line of help for each command"
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    for section in SECTIONS.values():
        for name, words in section.items():
            assert f"  {name}" in shown
            assert len(words) <= 45, f"SECTIONS, {name}: at most 45 characters fit"
            assert words in shown
