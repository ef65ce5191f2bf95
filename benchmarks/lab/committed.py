"""A worker that reads everything committed only, requests too: what a consumer does that is given no thought.

python -m benchmarks.lab.committed WORKER
"""

from importlib import import_module
from typing import Any

from benchmarks.lab.patched import run_patched


def _read_committed() -> None:
    kafka: Any = import_module("streams.kafka.connection").Kafka
    plain = kafka.group_consumer

    def group_consumer(self: Any, group: str, instance: str, **_: bool) -> Any:
        return plain(self, group, instance)

    kafka.group_consumer = group_consumer


if __name__ == "__main__":
    run_patched(_read_committed)
