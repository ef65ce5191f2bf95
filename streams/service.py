"""What every worker process has around its loop: signals, log lines, metrics, heartbeat."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams import metrics

log = logging.getLogger(__name__)


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


def log_to_stderr(worker: str) -> None:
    """One line an entry: time, level, worker, text."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s {worker} %(message)s",
    )


class Heartbeat:
    """Touches a file at most once a second, for the health check of the worker's loop."""

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / metrics.HEARTBEAT if folder else None
        self._last = 0.0

    def beat(self) -> None:
        now = time.monotonic()
        if self._file is not None and now - self._last >= 1.0:
            self._last = now
            self._file.touch()


@contextmanager
def observed(host: str, port: int | None) -> Iterator[Heartbeat]:
    """Serves this process's metrics on host:port while the block runs; without a port, none are served.

    To be entered before the worker's modules are imported: prometheus_client decides at import where values live.
    """
    if port is None:
        yield Heartbeat(None)
        return
    folder = metrics.prepare()
    server = metrics.serve(folder, host, port)
    try:
        yield Heartbeat(folder)
    finally:
        server.terminate()
        server.wait(5)
