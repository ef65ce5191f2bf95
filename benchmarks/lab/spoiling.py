"""A trainer whose learning goes wrong once it is told to.

    python -m benchmarks.lab.spoiling WORKER

While a file of that name lies in the folder TIDERANK_SPOIL: `rate` multiplies both learning rates by 1,000, `nan`
makes one weight a NaN after the next step (once).
"""

import os
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.lab.patched import run_patched

SPOIL = "TIDERANK_SPOIL"
TIMES = 1_000


def _spoil() -> None:
    if sys.argv[1] != "train":
        return
    learner: Any = import_module("ranker.learning.learner").Learner
    plain, folder = learner.learn, Path(os.environ[SPOIL])

    def learn(self: Any, examples: Any) -> Any:
        if (folder / "rate").exists() and not hasattr(self, "spoiled"):
            self.spoiled = True
            self._settings = replace(self._settings, row_rate=TIMES * self._settings.row_rate)
            for group in self.adam.param_groups:
                group["full_rate"] *= TIMES
        report = plain(self, examples)
        if (folder / "nan").exists() and report.applied:
            (folder / "nan").unlink()
            next(iter(self.dense.values())).view(-1)[0] = float("nan")
        return report

    learner.learn = learn


if __name__ == "__main__":
    run_patched(_spoil)
