"""The house of a demo: fresh, in a folder that is left to be looked at."""

import fcntl
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from streams.local.house import House, open_house
from streams.local.process import StackError, end_orphans
from streams.local.stack import BrokerChoice

LEFT_BEHIND = ("kafka", "redis", "snapshots", "logs")
"""What a demo leaves in its folder, to be looked at until the next one."""


def fresh_house(
    home: Path, recipe: Path, *, broker: BrokerChoice, announce: Callable[[str], None]
) -> AbstractContextManager[House]:
    """Opens a house in `home`, without workers; what an earlier demo left there is removed. Raises StackError.

    recipe: the file that the workers will read.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another demo runs in {home}; end it, or choose another folder with --data") from None
        end_orphans(home)
        for name in LEFT_BEHIND:
            shutil.rmtree(home / name, ignore_errors=True)
    return open_house(home, recipe=str(recipe), broker=broker, announce=announce)
