"""What every worker process has around its loop: signals, log lines, metrics, heartbeat."""

import errno
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.errors import StartError
from streams.runtime import exporter

log = logging.getLogger(__name__)

RELEASE_S = 2.0
"""A worker that was killed leaves the server of its metrics behind, which ends half a second later."""


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second signal ends the process as it would have."""
    stop = threading.Event()

    def ask_to_stop(number: int, _: object) -> None:
        log.info("stopping on %s", signal.Signals(number).name)
        stop.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_to_stderr(worker: str, level: str = "info") -> None:
    """Logs a line an entry: time, level, worker, text. A root logger that has handlers is left as it is."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format=f"%(asctime)s %(levelname)s {worker} %(message)s",
    )


class Heartbeat:
    """Touches a file at most once a second, for the health check of the worker's loop."""

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / exporter.HEARTBEAT if folder else None
        self._last = 0.0

    def beat(self) -> None:
        now = time.monotonic()
        if self._file is not None and now - self._last >= 1.0:
            self._last = now
            self._file.touch()


def _check_address(host: str, port: int) -> None:
    if not 1 <= port <= 65_535:
        raise StartError(f"the port of the metrics (TIDERANK_METRICS_PORT) must be 1 to 65535, got {port}")
    end_s = time.monotonic() + RELEASE_S
    while True:
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= end_s:
                raise StartError(
                    f"metrics cannot be served at {host}:{port} (TIDERANK_METRICS_HOST, TIDERANK_METRICS_PORT): "
                    f"{error.strerror}; choose another"
                ) from error
            time.sleep(0.1)
        else:
            return


@contextmanager
def observed(host: str, port: int | None) -> Iterator[Heartbeat]:
    """Serves this process's metrics on host:port while the block runs; without a port, none are served.

    To be entered before the worker's modules are imported: prometheus_client decides at import where values live.
    Raises StartError where they cannot be served there.
    """
    if port is None:
        yield Heartbeat(None)
        return
    _check_address(host, port)
    folder = exporter.prepare()
    server = exporter.serve(folder, host, port)
    try:
        yield Heartbeat(folder)
    finally:
        server.terminate()
        server.wait(5)
