"""What a person who mistypes sees: one line that says what to mend, and exit status 2; never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


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


@pytest.mark.parametrize(
    ("words", "environment", "says"),
    [
        (("dlq", "ls"), {"TIDERANK_BOOTSTRAP": "127.0.0.1:1"}, "TIDERANK_BOOTSTRAP"),
        (("dlq", "ls"), {"TIDERANK_BOOTSTRAP": "127.0.0.1:1", "TIDERANK_KAFKA_NO_SUCH": "1"}, "no.such"),
        (("up", "--workers", "--recipe", "no-such"), {}, "no-such"),
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
