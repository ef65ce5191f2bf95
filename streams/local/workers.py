"""Workers as child processes of this one, each with the very command that an operator would type."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from streams.config import settings
from streams.local.process import Child, free_port
from streams.runtime.health import healthy

INSTANCE = "local"
"""Instance of the one worker of its kind."""
READY_TIMEOUT_S = 180.0
"""Importing torch on a busy machine takes a while."""


class WorkerProcess:
    """`tiderank NAME` with its log in `home`/logs, its metrics on a free loopback port. Start it, await it, stop it."""

    def __init__(
        self,
        name: str,
        *,
        home: Path,
        bootstrap: str,
        redis_url: str,
        recipe: str | None = None,
        instance: str = INSTANCE,
        module: str = "streams.cli",
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`instance` tells apart the workers of one name; after a kill, the same one takes its partitions back.

        module: what `python -m` runs.
        environment: further variables, of its credentials say.
        """
        self.name = name
        self.metrics_port = free_port()
        variables = {
            settings.BOOTSTRAP: bootstrap,
            settings.REDIS_URL: redis_url,
            settings.DATA: str(home),
            settings.INSTANCE: instance,
            "TIDERANK_METRICS_HOST": "127.0.0.1",
            "TIDERANK_METRICS_PORT": str(self.metrics_port),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # more than one a process collapse on busy cores
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
            **environment,
        }
        if recipe is not None:
            variables[settings.RECIPE] = recipe
        command = [sys.executable, "-m", module, name]
        self.child = Child(f"{name}-{instance}", command, home=home, environment=variables)

    def await_ready(self) -> None:
        """Returns once its loop beats. Raises StackError, with the end of its log, if it ends first or is late."""
        self.child.wait_for(lambda: healthy(self.metrics_port)[0], READY_TIMEOUT_S)
