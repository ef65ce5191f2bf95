"""Where compiled graphs lie, and which of them a process may load: those of its model, code, torch and processor."""

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import torch

import kernels
from ranker.compiled.build import SETTINGS

_RANKER = Path(__file__).parent.parent
_ROOMS = (*(_RANKER / room for room in ("config", "inputs", "model", "compiled")), Path(kernels.__file__).parent)
_CODE = [path for room in _ROOMS for path in sorted(room.glob("*.py"))]
"""What a graph is traced from, besides the configuration."""


def graph_file(folder: Path, digest: str, tier: str, low_precision: Mapping[str, str]) -> Path:
    """Path of the graph of this tier.

    digest: of the model's configuration. low_precision: kinds of the tier's layers in low precision, by path.
    """
    here = [torch.__version__, platform.machine(), _instructions(), SETTINGS, dict(low_precision)]
    fingerprint = hashlib.sha256(json.dumps(here, sort_keys=True).encode())
    for path in _CODE:
        fingerprint.update(path.read_bytes())
    return folder / f"{digest}-{tier}-{fingerprint.hexdigest()[:16]}.pt2"


def _instructions() -> str:
    """What the processor can do: a graph is compiled for all of it."""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return flags[1] if flags else platform.processor()


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
