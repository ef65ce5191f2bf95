"""Any store that fsspec knows, by URL or path; and files that appear whole or not at all.

This machine's disk keeps in memory what it took, names apart from contents: a power cut may leave a name without them.
So there what is written is flushed. Other stores have kept what they have acknowledged.
"""

import contextlib
import os
import uuid
from collections.abc import Iterable
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

TEMPORARY = ".tmp"
"""How the name of a file ends that is being written."""


def open_root(url: str) -> tuple[Any, str]:
    """The fsspec file system, and the folder's path in it. Raises ValueError if this machine cannot read such URLs."""
    try:
        fs, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url} must be a folder or a URL of a store that fsspec can open here: {error}") from error
    return fs, path.rstrip("/")


def write_whole(fs: Any, path: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes beside it and renames, so that nobody ever sees a part of it. The folder must be there.

    Its contents outlive a power cut wherever its name does; for that, flush_folder.
    """
    temporary = f"{path}.{uuid.uuid4().hex}{TEMPORARY}"
    try:
        with fs.open(temporary, "wb") as file:
            for piece in pieces:
                file.write(piece)
            flush(fs, file)
        fs.mv(temporary, path)
    except BaseException:
        with contextlib.suppress(Exception):
            fs.rm_file(temporary)
        raise


def flush(fs: Any, file: Any) -> None:
    """Returns once a power cut does not take what was written into the file."""
    if isinstance(fs, LocalFileSystem):
        file.flush()
        os.fsync(file.fileno())


def flush_folder(fs: Any, path: str) -> None:
    """Returns once a power cut does not take the names in the folder."""
    if isinstance(fs, LocalFileSystem):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
