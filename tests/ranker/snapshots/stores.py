"""Real stores that tell what is asked of them, and states to keep there."""

import threading
from collections import Counter
from typing import Any, ClassVar

import fsspec
import torch
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from ranker.snapshots.snapshot import State
from tests.ranker.samples import at


class CountedStore(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """counted://: as memory://, and counts the reads of each file."""

    protocol = "counted"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    reads: ClassVar[Counter[str]] = Counter()
    _together: ClassVar[threading.Barrier] = threading.Barrier(1)

    @classmethod
    def fresh(cls) -> None:
        cls.store.clear()
        cls.reads.clear()
        cls.wait_for(1)

    @classmethod
    def wait_for(cls, reads: int) -> None:
        """From now on no read of a shard returns before as many are under way."""
        cls._together = threading.Barrier(reads)

    @classmethod
    def shard_reads(cls) -> int:
        return sum(count for path, count in cls.reads.items() if path.endswith(".safetensors"))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self.reads[path] += 1
        if path.endswith(".safetensors"):
            self._together.wait(timeout=20)
        data: bytes = super().cat_file(path, start=start, end=end, **options)
        return data

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = MemoryFileSystem._strip_protocol(path.removeprefix("counted://"))
        return stripped


class AsyncStore(AsyncFileSystem):  # type: ignore[misc]
    """asynchronous://: the local disk behind an asynchronous interface, as object stores have it."""

    protocol = "asynchronous"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._disk = LocalFileSystem()

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        data: bytes = self._disk.cat_file(path, start=start, end=end)
        return data

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        info: dict[str, Any] = self._disk.info(path)
        return info

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        listed: list[Any] = self._disk.ls(path, detail=detail)
        return listed


def register() -> None:
    for store in (CountedStore, AsyncStore):
        fsspec.register_implementation(store.protocol, store, clobber=True)


def state(number: int = 1, *, epoch: int = 1, seed: int = 0, elements: int = 5_000) -> State:
    """Makes a state of tensors of many kinds, one much larger than the others."""
    torch.manual_seed(seed)
    image = {
        "dense/a": torch.randn(3, 5),
        "dense/half": torch.randn(7).bfloat16(),
        "rows/items/keys": torch.arange(9, dtype=torch.int64).view(torch.uint64),
        "rows/items/values": torch.randn(elements // 4, 4),
        "rows/none/keys": torch.empty(0, dtype=torch.uint64),
    }
    training = {
        "step": torch.tensor(number),
        "rates": torch.rand(4, 2, dtype=torch.float64),
        "big": torch.rand(elements),
    }
    return State(
        image=lambda: image,
        training=lambda: training,
        position=at(number, epoch),
        offsets={"0": number},
        watermark_ms=number,
    )
