"""An empty Redis (or Valkey) for each test."""

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.feature_store.servers import Server, find_servers
from tests.streams.audit.history import History


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = next(filter(None, find_servers().values()))
    server = Server(program, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def history(server: Server) -> History:
    server.redis.flushall()
    return History(server.redis)


@pytest.fixture
def redis(server: Server) -> Redis:
    return server.redis
