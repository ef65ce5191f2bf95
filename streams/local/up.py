"""`tiderank up`: the local stack in the foreground, until a signal."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from streams.kafka import Kafka
from streams.local.stack import BrokerChoice, LocalStack, StackError, local_stack

WATCH_S = 0.5


def up(data_dir: Path, *, announce: Callable[[str], None], broker: BrokerChoice = "auto") -> None:
    """Starts both servers, makes the topics on a broker of ours, says where all is, and waits for Ctrl-C or SIGTERM.

    Returns after a clean stop. Raises StackError if a server does not start, or ends by itself later.
    """
    # Both ways of asking us to stop then take the same way out, from wherever we are.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with local_stack(data_dir, broker=broker, announce=announce) as stack:
            if stack.broker.ours:
                Kafka(stack.bootstrap, {}).create_topics()
            announce("for the workers:")
            announce(f"  export TIDERANK_BOOTSTRAP={stack.bootstrap} TIDERANK_REDIS_URL={stack.redis_url}")
            announce("Ctrl-C stops both")
            _watch(stack)
    except KeyboardInterrupt:
        announce("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(stack: LocalStack) -> None:
    while True:
        for server in (stack.broker, stack.redis):
            if not server.alive():
                raise StackError(f"{server.version} ended by itself{server.last_words()}")
        time.sleep(WATCH_S)
