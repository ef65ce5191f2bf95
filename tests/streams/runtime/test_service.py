"""Metrics that cannot be served are refused at the start; an address that becomes free is waited for."""

import errno
import os
import socket
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
