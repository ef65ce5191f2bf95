"""One server process: started apart from our signals, watched, ended with us, found again after us. Linux."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from streams.errors import StartError

__all__ = ["Child", "StackError", "end_orphans", "free_port", "listening", "tail"]

STOP_TIMEOUT_S = 10.0
POLL_S = 0.02
_LAUNCH = Path(__file__).with_name("launch.py")


class StackError(StartError):
    """A server of the local stack cannot run. Says what was tried and what to do; nothing is left running."""


class Child:
    """A server as a child process.

    It has a session of its own, so Ctrl-C reaches us and not it; the kernel kills it when the thread that started it
    dies (kill -9 included); its pid file lets the next stack in the same folder end it should that fail.
    Not thread-safe.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, home: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """
        Args:
            home: gets logs/`name`.log, appended to, and run/`name`.pid.
            environment: added to ours.
        """
        self.name = name
        self.command = list(command)
        self.log_path = home / "logs" / f"{name}.log"
        self._environment = {**os.environ, **(environment or {})}
        self._pid_path = home / "run" / f"{name}.pid"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """Process id of the running server; it stays readable after the server's end."""
        if self._process is None:
            raise StackError(f"{self.name} was not started")
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        if self.alive():
            raise StackError(f"{self.name} runs already as process {self.pid}")
        if sys.platform != "linux":
            raise StackError(
                f"the local stack needs Linux, this is {sys.platform}; "
                "name a broker and a Redis with TIDERANK_BOOTSTRAP and TIDERANK_REDIS_URL"
            )
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._pid_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self._environment,
            )
        self._pid_path.write_text(json.dumps({"pid": self.pid, "born": _born(self.pid)}))

    def wait_for(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Asks `ready` until it says yes. Raises StackError with the log's last lines if the server ends or is late."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.alive():
                code = self._process.returncode if self._process else None
                raise StackError(f"{self.name} ended with code {code} before it was ready{self.last_words()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} was not ready within {timeout_s:.0f} s{self.last_words()}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Sends SIGTERM, then SIGKILL if it does not heed it. No effect on a server that is not running."""
        if self._process is None:
            return
        if self.alive():
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._pid_path.unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        """Sends SIGTERM, without waiting for the end."""
        if self._process is not None and self.alive():
            self._process.terminate()

    def kill(self) -> None:
        """Sends SIGKILL and waits for the end: what a crash looks like."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> str:
        """How it ended, for people."""
        code = self._process.poll() if self._process is not None else None
        if code is None:
            return "has not ended"
        return f"was killed by signal {-code}" if code < 0 else f"ended by itself with status {code}"

    def last_words(self) -> str:
        """The end of what it has logged since its start, set for the end of an error message."""
        lines = tail(self.log_path, since=self._log_start)
        return f"; the end of {self.log_path}:\n{lines}" if lines else f"; {self.log_path} is empty"


def end_orphans(home: Path) -> list[str]:
    """Kills what an earlier stack left running in this folder; returns its names.

    A pid alone proves nothing, as it may have passed to another process: the time of birth must agree.
    """
    ended = []
    for path in sorted((home / "run").glob("*.pid")):
        try:
            entry = json.loads(path.read_text())
            pid, born = int(entry["pid"]), entry["born"]
        except (ValueError, KeyError, TypeError):  # cut short by a crash in mid-write
            path.unlink()
            continue
        if born is not None and _born(pid) == born:
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while _born(pid) == born:
                if time.monotonic() > deadline:
                    raise StackError(f"process {pid} ({path.stem}) of an earlier run does not end; end it by hand")
                time.sleep(POLL_S)
            ended.append(path.stem)
        path.unlink()
    return ended


def free_port() -> int:
    """A free TCP port on 127.0.0.1 for a server that will be restarted on it.

    Outside the range that the kernel gives to outgoing connections: else a client that calls a dead server's port can
    be given that very port, connect to itself, and keep the server from coming back.
    """
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in range(10_000, 65_536) if not low <= port <= high]
    for port in random.sample(ports, min(100, len(ports))):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StackError(f"no free port on 127.0.0.1 below {low} or above {high}; end some servers")


def listening(port: int) -> bool:
    """True if something takes connections at this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def tail(path: Path, *, since: int = 0, lines: int = 12) -> str:
    """The last lines of a file, of the part after byte `since`; empty if there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(since, file.seek(0, os.SEEK_END) - 8_192))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def _born(pid: int) -> str | None:
    """What tells a process from every other that ever had its pid; None if it is gone (a zombie is)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # after the name, which may hold anything: state is field 3, start 22
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"
