"""What processor this machine has. Reads /proc; imports nothing that takes time."""

import os
import re
from pathlib import Path

CPU_FEATURES = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_bf16": "avx512-bf16",
    "amx_tile": "amx",
    "amx_bf16": "amx-bf16",
}


def cpu_info(path: Path) -> tuple[str, list[str]]:
    """Model and the features that matter to us, of a file in the form of /proc/cpuinfo."""
    text = path.read_text() if path.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    have = set(flags[1].split()) if flags else set()
    return model[1] if model else "unknown", [ours for theirs, ours in CPU_FEATURES.items() if theirs in have]


def this_machine() -> str:
    """In words. Who else uses its cores shows in the load average, so ask before the run adds to it."""
    model, features = cpu_info(Path("/proc/cpuinfo"))
    return (
        f"{model} ({', '.join(features) or 'no features of note'}), {os.cpu_count()} cores, "
        f"load average {os.getloadavg()[0]:.1f} before the run"
    )
