"""A ranking process that applies no updates while a file of its instance's name lies in the folder TIDERANK_HOLD.

python -m benchmarks.lab.holding WORKER
"""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.lab.patched import run_patched

HOLD = "TIDERANK_HOLD"


def _hold() -> None:
    replica: Any = import_module("streams.workers.rank.replica").Replica
    plain = replica.apply_waiting
    file = Path(os.environ[HOLD]) / os.environ["TIDERANK_INSTANCE"]

    def apply_waiting(self: Any) -> int:
        if self._engine.position is not None and file.exists():
            return 0
        return int(plain(self))

    replica.apply_waiting = apply_waiting


if __name__ == "__main__":
    run_patched(_hold)
