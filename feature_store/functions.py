"""The server-side functions: their text, their names, their calls. Knows Redis; knows nothing of logs or labels.

The library and its functions carry a digest of their text in their names, so a worker always runs exactly the code it
was shipped with, old and new workers side by side too. Where the server does not have them (a new server, FUNCTION
FLUSH), they are loaded and the calls made again: calls are idempotent, and none of a batch can have run without the
others, because everything that changes data is one of these functions.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import xxhash
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

_FILES = ("log.lua", "join.lua", "sweep.lua", "library.lua")
_MISSING = "Function not found"


class Call(NamedTuple):
    function: str
    keys: Sequence[bytes]
    args: Sequence[bytes | str | int]
    read_only: bool = False


@cache
def library() -> tuple[str, str]:
    """(version, source): the version is a digest of the text."""
    folder = resources.files("feature_store") / "lua"
    text = "".join((folder / name).read_text(encoding="utf-8") for name in _FILES)
    version = xxhash.xxh3_64_hexdigest(text.encode())
    return version, f"#!lua name=tiderank_{version}\nlocal VERSION = '{version}'\n{text}"


def load(redis: Redis) -> None:
    """Put the functions on the server; harmless where they are there."""
    redis.function_load(library()[1], replace=True)


def run(redis: Redis, calls: Sequence[Call], *, atomic: bool) -> list[Any]:
    """The replies of all calls, in one round trip; atomic: as one transaction.

    Raises what the server answered if a call failed, and redis' ConnectionError or TimeoutError if it is away.
    """
    if not calls:
        return []
    replies = _execute(redis, calls, atomic)
    if any(isinstance(reply, ResponseError) and _MISSING in str(reply) for reply in replies):
        with suppress(NoPermissionError):  # then whoever may load them has to, and until then they are missing
            load(redis)
            replies = _execute(redis, calls, atomic)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _execute(redis: Redis, calls: Sequence[Call], atomic: bool) -> list[Any]:
    version = library()[0]
    with redis.pipeline(transaction=atomic) as pipe:
        for call in calls:
            fcall = pipe.fcall_ro if call.read_only else pipe.fcall
            fcall(f"{call.function}_{version}", len(call.keys), *call.keys, *call.args)
        return list(pipe.execute(raise_on_error=False))
