"""Any store that fsspec knows, by URL or path; and files that appear whole or not at all."""

import contextlib
import uuid
from collections.abc import Iterable
from typing import Any

from fsspec.core import url_to_fs

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
    """Writes beside it and renames, so that nobody ever sees a part of it. The folder must be there."""
    temporary = f"{path}.{uuid.uuid4().hex}{TEMPORARY}"
    try:
        with fs.open(temporary, "wb") as file:
            for piece in pieces:
                file.write(piece)
        fs.mv(temporary, path)
    except BaseException:
        with contextlib.suppress(Exception):
            fs.rm_file(temporary)
        raise
