"""A worker as its operator runs it: the console command in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.local.stack import LocalStack

STOP_TIMEOUT_S = 60.0


@contextmanager
def worker_process(name: str, stack: LocalStack, folder: Path, recipe: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs `tiderank NAME` with a recipe's text. At the end it must leave at SIGTERM with status 0, unless the test
    has ended it before; on failure the end of its log is shown."""
    (folder / "recipe.toml").write_text(recipe)
    environment = os.environ | {
        "TIDERANK_BOOTSTRAP": stack.bootstrap,
        "TIDERANK_REDIS_URL": stack.redis_url,
        "TIDERANK_INSTANCE": "test",
        "OMP_NUM_THREADS": "1",
    }
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "from streams.cli import main; main()", name, "--recipe", folder / "recipe.toml"],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
        if process.poll() is None:
            process.terminate()
            assert process.wait(STOP_TIMEOUT_S) == 0
    except BaseException:
        sys.stderr.write(log.read_text()[-3000:])
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
