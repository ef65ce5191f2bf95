"""Prometheus metrics of the workers. Values live in files that a child process reads and serves over HTTP.

So no HTTP thread ever contends for the interpreter lock of a process that scores. `prepare` must run before the first
import of prometheus_client in the process: it decides there and then whether values live in files.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HEARTBEAT = "heartbeat"
"""A file in the folder, touched by the worker's loop."""


def prepare() -> Path:
    """Makes this process keep its metric values in files; returns their folder."""
    if "prometheus_client" in sys.modules:
        raise RuntimeError("exporter.prepare must be called before prometheus_client is imported")
    folder = Path(tempfile.mkdtemp(prefix="tiderank-metrics-"))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    return folder


def serve(folder: Path, host: str, port: int) -> "subprocess.Popen[bytes]":
    """Starts the process that serves http://host:port/metrics; it ends, and removes the folder, when this one does."""
    return subprocess.Popen(
        [sys.executable, "-m", "streams.runtime.exporter_server", str(folder), host, str(port), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"},
    )
