"""Builds and runs by a Docker engine and its compose, where there is one. Kafka and Redis are then their own images."""

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.image.compose import ROOT, Service

__all__ = ["ComposeHouse", "build", "found", "size"]


def found() -> bool:
    """Whether an engine answers; a client alone is none."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def build(tag: str, arguments: Sequence[str], log: Path) -> None:
    words = [word for argument in arguments for word in ("--build-arg", argument)]
    command = ["docker", "build", "--tag", tag, *words, "--file", str(ROOT / "deploy" / "Dockerfile"), str(ROOT)]
    with log.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the image does not build; the end of {log}:\n{log.read_text()[-3_000:]}")


def size(tag: str) -> str:
    return _docker("image", "ls", "--format", "{{.Size}}", tag)


class ComposeHouse:
    """The services of the compose file under a project name of their own, whose volumes go with it."""

    def __init__(self, profile: str, scratch: Path) -> None:
        self._scratch = scratch
        self._compose = ["compose", "--project-name", "tiderank-image-test", "--project-directory", str(ROOT)]
        self._compose += ["--profile", profile]

    def start_servers(self) -> None:
        self._ask("up", "--detach", "--wait", "kafka", "redis")

    def remove(self) -> None:
        self._ask("down", "--volumes")

    def create(self, service: Service) -> None:
        self._ask("create", "--no-build", service.name)

    def start(self, service: Service) -> None:
        self._ask("up", "--detach", "--no-deps", "--no-recreate", "--no-build", service.name)

    def execute(self, service: Service, command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        words = ["docker", *self._compose, "exec", "-T", service.name, *command]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout_s)

    def wait(self, service: Service, timeout_s: float) -> int:
        container = self._ask("ps", "--all", "--quiet", service.name)
        done = subprocess.run(
            ["docker", "wait", container], capture_output=True, text=True, check=True, timeout=timeout_s
        )
        return int(done.stdout)

    def alive(self, service: Service) -> bool:
        return bool(self._state(service)["Running"])

    def stop(self, service: Service) -> tuple[int, float]:
        """An engine that has to kill it leaves status 137."""
        began = time.monotonic()
        self._ask("stop", service.name)
        return int(self._state(service)["ExitCode"]), time.monotonic() - began

    def log(self, service: Service) -> Path:
        path = self._scratch / f"{service.name}.log"
        path.write_text(self._ask("logs", "--no-color", service.name))
        return path

    def _state(self, service: Service) -> dict[str, Any]:
        container = self._ask("ps", "--all", "--quiet", service.name)
        return json.loads(_docker("inspect", "--format", "{{json .State}}", container))  # type: ignore[no-any-return]

    def _ask(self, *words: str) -> str:
        return _docker(*self._compose, *words)


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"docker {' '.join(words)}: {done.stderr[-2_000:]}")
    return done.stdout.strip()
