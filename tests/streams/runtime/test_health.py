"""The container's health check against the real metrics handler."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from streams.local.process import free_port
from streams.runtime.exporter import HEARTBEAT
from streams.runtime.exporter_server import make_handler
from streams.runtime.health import healthy


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), make_handler(tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_beating_loop_is_healthy_and_a_silent_one_is_not(port: int, tmp_path: Path) -> None:
    assert healthy(port) == (False, "the loop does not beat")
    (tmp_path / HEARTBEAT).touch()
    assert healthy(port) == (True, "ok")


def test_exit_status_is_what_a_container_engine_reads(port: int, tmp_path: Path) -> None:
    (tmp_path / HEARTBEAT).touch()
    for which, status in ((port, 0), (free_port(), 1)):
        done = subprocess.run(
            [sys.executable, "-m", "streams.runtime.health", str(which)], capture_output=True, check=False
        )
        assert done.returncode == status
