"""Files of any store, read in ranges by many streams at once, and handed over in order.

Memory is bounded by what is read ahead: twice as many ranges of RANGE_BYTES as streams, whatever the files' sizes.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")

RANGE_BYTES = 8_000_000
"""Long beside a store's latency: at 50 MB/s and 30 ms a fifth of the time is waiting."""
READERS = min(4, os.cpu_count() or 1)
"""Files taken in at once: what is done with their bytes (a digest) is bounded by the processor, not by the store."""


class ByteStreams:
    """A context manager. `streams` threads read ranges; up to READERS threads take in files.

    Both kinds of fsspec file systems will do: an asynchronous one serves calls from any thread, and of the others the
    local, the in-memory and Arrow's may be used by several at once. For one that may not, take one stream.
    """

    def __init__(self, streams: int) -> None:
        """Raises ValueError if streams < 1."""
        if streams < 1:
            raise ValueError(f"a file is read by at least one stream, got {streams}")
        self._ranges = ThreadPoolExecutor(streams, "snapshot-range")
        self._readers = ThreadPoolExecutor(READERS, "snapshot-reader")
        # As many again as can be under way: one slow range does not keep the streams behind it waiting.
        self._slots = threading.Semaphore(2 * streams)
        self._closed = threading.Event()

    def __enter__(self) -> "ByteStreams":
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        for pool in (self._readers, self._ranges):
            pool.shutdown(wait=True, cancel_futures=True)

    def each(self, function: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
        """The function of each item, in order, several at once; ends at the first exception, which it raises."""
        return iter(self._readers.map(function, items))

    def read(self, fs: Any, path: str, size: int) -> Generator[bytes, None, None]:
        """The first `size` bytes of a file, in order; fewer where it ends before. Close it if you leave before its end.

        Raises what the store raises, and CancelledError once the streams are closed.
        """
        starts = deque(range(0, size, RANGE_BYTES))
        ahead: deque[Future[bytes]] = deque()
        try:
            while starts or ahead:
                # Only who has nothing under way waits for a slot; so whoever holds slots goes on, and gives them back.
                while starts and self._slots.acquire(blocking=not ahead):
                    start = starts.popleft()
                    end = min(start + RANGE_BYTES, size)
                    ahead.append(self._ranges.submit(fs.cat_file, path, start=start, end=end))
                if self._closed.is_set():
                    raise CancelledError
                data = ahead[0].result()
                ahead.popleft()
                self._slots.release()
                yield data
        finally:
            for future in ahead:
                future.cancel()
                self._slots.release()
