"""Every test that takes `redis` runs on each server found here: Redis and Valkey."""

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.feature_store.servers import Server, find_servers


@pytest.fixture(scope="session", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = find_servers()[request.param]
    if program is None:
        pytest.skip(f"no {request.param} server here: put redis-server on the PATH or name it in TIDERANK_REDIS_SERVER")
    server = Server(program, tmp_path_factory.mktemp(request.param))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(server: Server) -> Redis:
    """A client of an empty server."""
    server.redis.flushall()
    server.redis.function_flush()
    return server.redis
