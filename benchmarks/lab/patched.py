"""`tiderank WORKER` with something of it replaced: what a benchmark needs and an operator does not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def run_patched(patch: Callable[[], None]) -> None:
    """Runs what the command line says; `patch` is called before the worker is made."""
    service: Any = import_module("streams.runtime.service")
    plain = service.observed

    @contextmanager
    def observed(*args: Any) -> Iterator[Any]:
        with plain(*args) as heartbeat:
            patch()  # what it imports may not be there before the metrics are
            yield heartbeat

    service.observed = observed
    import_module("streams.cli").main()
