"""The image that the Dockerfile begins from, made of Debian's packages: for machines that can pull no image.

What this machine's pip and uv need to reach an index (certificates, pip.conf, addresses) goes into this base alone.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

SUITE = "bookworm"
"""The Debian release whose Python is the one of the Dockerfile's base."""
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_INDEX_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL")
_AUTHORITIES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
_PACKAGES = "python3,python3-venv,ca-certificates"

__all__ = ["base_recipe", "make_tree", "mirror"]


def mirror(folder: Path = Path("/etc/apt")) -> str:
    """The Debian mirror that apt uses here. Raises RuntimeError where it names none."""
    for path in (folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))):
        for address, suites in _sources(path):
            if SUITE in suites:
                return address
    raise RuntimeError(
        f"apt's sources name no mirror of Debian {SUITE}; pull the image that the Dockerfile begins from"
    )


def _sources(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Addresses and suites of a file of either format; a comment is neither."""
    text = path.read_text() if path.is_file() else ""
    for line in re.finditer(r"^deb\s+(?:\[.*?\]\s+)?(\S+)\s+(\S+)", text, re.MULTILINE):
        yield line[1], [line[2]]
    for uris, suites in re.findall(r"^URIs:\s*(\S+).*?^Suites:\s*([^\n]+)", text, re.MULTILINE | re.DOTALL):
        yield uris, suites.split()


def make_tree(tree: Path) -> None:
    """Debian with Python and pip under `tree`, as `python:*-slim` has them: `python` runs, pip installs anywhere."""
    partial = tree.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    _quietly("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", SUITE, str(partial), mirror())
    _quietly("chroot", str(partial), "apt-get", "install", "-y", "-qq", "--no-install-recommends", "python3-pip")
    for marker in partial.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    (partial / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(partial / waste, ignore_errors=True)
    _let_reach_an_index(partial)
    partial.rename(tree)  # whole or not at all


def _let_reach_an_index(tree: Path) -> None:
    named = next((path for name in _AUTHORITIES if (path := os.environ.get(name)) and Path(path).is_file()), None)
    if named is not None:
        shutil.copy(named, tree / CERTIFICATES.lstrip("/"))
    for source, target in _settings_files():
        if source.is_file():
            (tree / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tree / target)


def _settings_files() -> Iterator[tuple[Path, str]]:
    """Files of pip and uv, in rising precedence, with where the base's tools look."""
    for path in (Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"):
        yield path, "etc/pip.conf"
    yield Path(os.environ.get("PIP_CONFIG_FILE", "/nonexistent")), "etc/pip.conf"
    yield Path("/etc/uv/uv.toml"), "etc/uv/uv.toml"
    yield Path.home() / ".config/uv/uv.toml", "etc/uv/uv.toml"


def base_recipe() -> str:
    """The Dockerfile of the base, beside its tree."""
    variables = {"PIP_CERT": CERTIFICATES, "SSL_CERT_FILE": CERTIFICATES}
    variables |= {name: os.environ[name] for name in _INDEX_VARIABLES if name in os.environ}
    environment = "".join(f"ENV {name}={value}\n" for name, value in variables.items())
    return f'FROM scratch\nADD rootfs.tar /\n{environment}CMD ["python3"]\n'


def _quietly(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {(done.stdout + done.stderr)[-2_000:]}")
