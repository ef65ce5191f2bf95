"""A Dockerfile and its .dockerignore, read as far as the tests need them."""

import fnmatch
import re
from pathlib import Path

__all__ = ["copied", "installs", "let_through", "python_version"]


def _lines(path: Path) -> list[str]:
    """Instructions, each on one line; no comments."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    return [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]


def installs(path: Path) -> list[str]:
    """Every `uv pip install ...` of every RUN, as a shell would get it."""
    runs = [line for line in _lines(path) if line.startswith("RUN ")]
    return [found[0].strip() for run in runs for found in re.finditer(r"uv pip install [^;&]*", run)]


def copied(path: Path) -> list[str]:
    """What is copied into the image from the repository."""
    lines = [line.split()[1:-1] for line in _lines(path) if line.startswith("COPY ") and "--from=" not in line]
    return [source for line in lines for source in line]


def python_version(path: Path) -> str:
    """Returns the Python version of the image that it begins from."""
    found = re.search(r"^FROM python:(\d+\.\d+)", path.read_text(), re.MULTILINE)
    assert found is not None, f"{path} begins from no python:X.Y image"
    return found[1]


def let_through(ignore: Path, path: str) -> bool:
    """Whether `path` gets past the .dockerignore: the last line that matches it, or a folder that it is in, decides."""
    ignored = False
    for line in ignore.read_text().split():
        pattern = line.lstrip("!").removeprefix("**/")
        parts = Path(path).parts
        anywhere = "**/" in line
        inside = [parts[start:end] for end in range(1, len(parts) + 1) for start in (range(end) if anywhere else (0,))]
        if any(fnmatch.fnmatchcase("/".join(part), pattern) and len(part) == pattern.count("/") + 1 for part in inside):
            ignored = not line.startswith("!")
    return not ignored
