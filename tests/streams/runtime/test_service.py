"""Metrics that cannot be served are refused at the start; an address that becomes free is waited for; logging."""

import errno
import os
import socket
import subprocess
import sys
import threading

import pytest

from streams.errors import StartError
from streams.runtime import service
from streams.runtime.service import observed


@pytest.mark.parametrize("port", [-1, 0, 65_536, 99_999])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with (
        pytest.raises(StartError, match=f"TIDERANK_METRICS_PORT.* must be 1 to 65535, got {port}"),
        observed("x", port),
    ):
        pass


def test_an_address_that_is_taken_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "RELEASE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        why = f"at 127.0.0.1:{port} .*{os.strerror(errno.EADDRINUSE)}"
        with pytest.raises(StartError, match=why), observed("127.0.0.1", port):
            pass


def test_an_address_that_is_given_up_meanwhile_is_taken() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    address = taken.getsockname()
    released = threading.Timer(0.3, taken.close)
    released.start()
    service._check_address(*address)
    released.join()
    assert taken.fileno() == -1


@pytest.mark.parametrize(("level", "said"), [("debug", "d i w"), ("info", "i w"), ("warning", "w"), ("error", "")])
def test_lines_below_the_level_are_not_logged(level: str, said: str) -> None:
    code = f"""
import logging
from streams.runtime.service import log_to_stderr
log_to_stderr("rank", {level!r})
log = logging.getLogger("x")
log.debug("d"); log.info("i"); log.warning("w")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.split(" rank ")[1] for line in ran.stderr.splitlines()] == said.split()


def test_a_root_logger_that_is_configured_is_left_as_it_is() -> None:
    code = """
import logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="theirs %(message)s")
from streams.runtime.service import log_to_stderr
log_to_stderr("rank")
logging.getLogger("x").info("quiet"); logging.getLogger("x").warning("loud")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("theirs loud\n", "")
