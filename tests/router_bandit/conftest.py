"""Every test that takes `server` runs on each Redis found on this machine."""

from collections.abc import Iterator

import pytest

from streams.local.redis import found_servers, redis_server
from streams.local.server import Server

KINDS = [
    pytest.param(kind, marks=[] if kind in found_servers() else pytest.mark.skip(reason=f"no {kind} on this machine"))
    for kind in ("redis-server", "valkey")
]


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = redis_server(tmp_path_factory.mktemp("redis"), request.param)
    server.start()
    yield server
    server.stop()
