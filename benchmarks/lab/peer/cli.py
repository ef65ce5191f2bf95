"""`python -m benchmarks.lab.peer.cli WORKER`: rank and train are the peer's, all other workers are the house's own."""

import os
import sys

from streams.config.settings import from_environment
from streams.runtime import service

PEERS = ("rank", "train")


def main() -> None:
    worker = sys.argv[1]
    if worker not in PEERS:
        from streams.cli import main as own

        own()
        return
    service.log_to_stderr(worker)
    host, port = os.environ["TIDERANK_METRICS_HOST"], int(os.environ["TIDERANK_METRICS_PORT"])
    with service.observed(host, port) as heartbeat, service.stop_signals() as stop:
        if worker == "rank":
            from benchmarks.lab.peer.rank import run_rank as run
        else:
            from benchmarks.lab.peer.train import run_train as run
        run(from_environment(), stop, heartbeat)


if __name__ == "__main__":
    main()
