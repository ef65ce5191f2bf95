"""Looking twice: whether what is left undone is being done."""

import time
from collections.abc import Callable
from dataclasses import dataclass

PATIENCE_S = 10.0
LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Patience:
    seconds: float
    """Time without progress after which what is left counts as never done."""

    def wait(self, left: Callable[[], int], extra_s: float = 0.0) -> int:
        """Returns once nothing is left, or once no less was left for so long: how much is. Work that goes on, however
        slowly, is waited for. extra_s: more of it, where the work may pause by design."""
        fewest, since = left(), time.monotonic()
        while fewest and time.monotonic() - since < self.seconds + extra_s:
            time.sleep(min(LOOK_EVERY_S, self.seconds + extra_s))
            count = left()
            if count < fewest:
                fewest, since = count, time.monotonic()
        return fewest
