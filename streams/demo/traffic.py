"""The simulated ad system as a child process: steered by lines on its input, reporting by lines on its output."""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from streams.config.settings import BOOTSTRAP
from streams.local.process import tail

STOP_TIMEOUT_S = 2.0
UNTIL_TOLD = 10**9
"""Requests of the warm-up: it ends on command."""


class Traffic:
    """Requests at a rate from a world, first the warm-up, then the measured part. Ends when its input is closed, so
    also when we are killed."""

    def __init__(
        self,
        *,
        bootstrap: str,
        seed: int,
        warm_up_rate: float,
        rate: float,
        seconds: float,
        drain_s: float,
        log_path: Path,
    ) -> None:
        options = {
            "seed": seed,
            "warm-up-requests": UNTIL_TOLD,
            "warm-up-rate": warm_up_rate,
            "rate": rate,
            "seconds": seconds,
            "drain": drain_s,
            "progress": "json",
        }
        command = [sys.executable, "-m", "streams.cli", "simulate", "--commands", "--json"]
        self._log_path = log_path
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(part for name, value in options.items() for part in (f"--{name}", str(value)))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for us to handle
                env=os.environ | {BOOTSTRAP: bootstrap},
            )
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True, name="traffic")
        self._reader.start()
        self.progress: dict[str, Any] = {}
        """The newest: counts of its phase so far, latency of the last second and of the phase."""
        self.report: dict[str, Any] | None = None
        """The last word, once it has ended well."""

    @property
    def pid(self) -> int:
        return self._process.pid

    def died(self) -> bool:
        """It ended without a last word. To be asked after `poll`."""
        ended = self._process.poll() is not None and not self._reader.is_alive()
        return ended and self.report is None and self._lines.empty()

    def poll(self) -> list[dict[str, Any]]:
        """Progress since the last call, oldest first."""
        news: list[dict[str, Any]] = []
        while True:
            try:
                line = json.loads(self._lines.get_nowait())
            except Empty:
                return news
            if "measured" in line:
                self.report = line
            else:
                self.progress = line
                news.append(line)

    def tell(self, command: str) -> None:
        """`rate N`, `next` or `stop`. Without effect on one that has ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """Kills it, if it has not ended by itself."""
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what it was to be told is of no use now
            self._process.stdin.close()

    def last_words(self) -> str:
        return tail(self._log_path) or f"{self._log_path} is empty"

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
