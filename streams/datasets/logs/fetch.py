"""Public data sets that travel inside packages: fetched once, checked, and only their data files unpacked."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 120
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel of the package index that carries data."""

    name: str
    version: str
    sha256: str

    @property
    def wheel(self) -> str:
        return f"{self.name}-{self.version}-py3-none-any.whl"


OBP = Package("obp", "0.4.1", "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208")
RECBOLE = Package("recbole", "1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")


class Unavailable(Exception):
    """A data set could not be fetched; the message says why and what to do."""


def cache_dir() -> Path:
    """Where fetched data stays: beside the sources of a checkout, else in the user's cache."""
    if (_REPOSITORY / "pyproject.toml").is_file():
        return _REPOSITORY / ".cache" / "data"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiderank" / "data"


def data_file(package: Package, member: str) -> Path:
    """The unpacked file `member` of the package's wheel, fetched with pip where it is not there yet.

    Raises Unavailable without a network, without pip, or where what came is not what is expected.
    """
    folder = cache_dir() / f"{package.name}-{package.version}"
    target = folder / member
    if target.is_file():
        return target
    wheel = cache_dir() / package.wheel
    if not wheel.is_file():
        _download(package)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != package.sha256:
        wheel.unlink()
        raise Unavailable(f"{package.wheel} must have SHA-256 {package.sha256}, got {found}; it was removed, try again")
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(member)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.part")
    partial.write_bytes(content)
    partial.replace(target)  # never half a file under the final name
    return target


def _download(package: Package) -> None:
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    try:
        subprocess.run([*command, "--dest", str(folder), wanted], check=True, capture_output=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{wanted} did not come within {TIMEOUT_S} s; is there a network?") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise Unavailable(
            f"pip could not fetch {wanted}: {last}. Put {package.wheel} into {folder} yourself"
        ) from error
