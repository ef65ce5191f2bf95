"""`make wheel-test`: builds the wheel, installs it by pip into empty environments, and runs it there.

Minutes and gigabytes, so no part of the tests; tests/test_wheel.py has what can be seen without installing.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".cache" / "wheel-test"
CLIENT = """
import importlib.util, json, sys
from streams.client import RankingClient
from streams.kafka import Kafka
from streams.wire.messages import Candidate, RankingRequest

assert importlib.util.find_spec("torch") is None
with RankingClient(Kafka.from_environment()) as client:
    ads = [Candidate(item="ad-1", bid=0.4), Candidate(item="ad-2")]
    request = RankingRequest(request_id="r1", user="u1", candidates=ads)
    response = client.rank(request, timeout_s=60.0, deadline_ms=60_000)
assert len(response.items) == 2
print(json.dumps({"status": response.status, "items": [item.item for item in response.items]}))
"""


def environment() -> dict[str, str]:
    """As a new user's: nothing of ours is set."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("TIDERANK_", "PYTHON", "VIRTUAL"))
    }


def build() -> Path:
    folder = HOME / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "uv", "build", "--wheel", "-q", "-o", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(name: str, what: str) -> tuple[Path, float]:
    """The scripts' folder of a new environment where pip has installed `what`, and the seconds that pip took."""
    place = HOME / name
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    start = time.monotonic()
    subprocess.run([place / "bin" / "pip", "install", "-q", what], env=environment(), check=True)
    return place / "bin", time.monotonic() - start


def row(name: str, scripts: Path, seconds: float) -> str:
    listed = subprocess.run([scripts / "pip", "list", "--format", "json"], capture_output=True, text=True, check=True)
    packages = {package["name"] for package in json.loads(listed.stdout)} - {"pip", "setuptools"}
    size = sum(file.lstat().st_size for file in scripts.parent.rglob("*") if not is_pip(file))
    return f"{name:<10}{len(packages):>9}{size / 1e6:>10.0f}{seconds:>9.0f}"


def is_pip(file: Path) -> bool:
    return any(part in ("pip", "setuptools") or part.startswith(("pip-", "setuptools-")) for part in file.parts)


def empty() -> Path:
    folder = HOME / "empty"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def demo(scripts: Path) -> str:
    """The demo's JSON line, out of an empty folder."""
    command: list[str | Path] = [scripts / "tiderank", "demo", "--broker", "memory", "--seconds", "10", "--json"]
    done = subprocess.run(command, cwd=empty(), env=environment(), stdout=subprocess.PIPE, text=True, check=False)
    line: str = (done.stdout.strip().splitlines() or [""])[-1]
    assert done.returncode == 0, f"the demo ended with status {done.returncode}: {line}"
    json.loads(line)
    return line


@contextmanager
def house() -> Iterator[dict[str, str]]:
    """The addresses of a running house, of this clone's own environment."""
    shutil.rmtree(HOME / "house", ignore_errors=True)
    command = [sys.executable, "-m", "streams.cli", "up", "--workers", "--recipe", "demo", f"--data={HOME / 'house'}"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as up:
        try:
            assert up.stdout is not None
            exports = next((line.split()[1:] for line in up.stdout if line.strip().startswith("export ")), None)
            assert exports, "the house did not start"
            yield dict(word.split("=", 1) for word in exports)
        finally:
            up.terminate()


def client(scripts: Path) -> str:
    """One line of what a running house answers to a caller who has the base alone."""
    with house() as addresses:
        command: list[str | Path] = [scripts / "python", "-c", CLIENT]
        return subprocess.check_output(command, cwd=empty(), env=environment() | addresses, text=True).strip()


def refusal(scripts: Path) -> str:
    command: list[str | Path] = [scripts / "tiderank", "demo"]
    done = subprocess.run(command, cwd=empty(), env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    return str(done.stderr.strip())


def main() -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    wheel = build()
    base, base_s = install("base", str(wheel))
    workers, workers_s = install("workers", f"{wheel}[workers]")
    print(f"{'install':<10}{'packages':>9}{'MB':>10}{'seconds':>9}")
    print(row("base", base, base_s))
    print(row("workers", workers, workers_s), flush=True)
    print(f"base, tiderank demo: {refusal(base)}")
    print(f"base, a caller:      {client(base)}", flush=True)
    print(f"workers, the demo:   {demo(workers)}")


if __name__ == "__main__":
    main()
