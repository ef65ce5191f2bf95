"""Builds our image and runs its services where no engine does: by buildah, in namespaces of this test's own.

What the engine would do is done here: a network with names, named volumes with the image's owners, a host name that
stays, a stop signal and its grace. Nothing of it is seen outside, so it minds no port that is taken on this machine.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.image import base
from tests.image.compose import ROOT, Service

CACHE = ROOT / ".cache" / "image"
GATEWAY = "172.30.0.1"
"""Where Kafka and Redis are, seen from the services."""
_BASE = "docker.io/library/python:3.11-slim"
_PROGRAMS = ("buildah", "debootstrap", "unshare", "nsenter", "ip")
_PACKAGES = "buildah debootstrap util-linux iproute2"

__all__ = ["GATEWAY", "Buildah", "BuildahHouse", "why_not"]


def why_not() -> str | None:
    """What is missing here, and how to come by it; None if nothing is."""
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} not found; Debian: apt-get install --no-install-recommends {_PACKAGES}"
    return None if os.geteuid() == 0 else "building and running images without an engine needs root"


class Buildah:
    """Its commands, on a store of this repository's own."""

    def __init__(self, run_root: Path) -> None:
        self._driver = os.environ.get("STORAGE_DRIVER") or _driver()
        self._global = ["buildah", "--root", str(CACHE / "storage"), "--runroot", str(run_root)]
        self._global += ["--storage-driver", self._driver]

    def command(self, *arguments: str) -> list[str]:
        return [*self._global, *arguments]

    def ask(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"buildah {' '.join(arguments)}: {done.stderr[-2_000:]}")
        return done.stdout.strip()

    def make_base(self) -> bool:
        """Whether it had to be made."""
        if self.ask("images", "--quiet", "--filter", f"reference={_BASE}"):
            return False
        tree, context = CACHE / "base", CACHE / "base-image"
        if not tree.is_dir():
            base.make_tree(tree)
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(base.base_recipe())
        subprocess.run(["tar", "-C", str(tree), "-cf", str(context / "rootfs.tar"), "."], check=True)
        self.ask("bud", "--quiet", "--isolation", "chroot", "--tag", _BASE, str(context))
        shutil.rmtree(context)
        shutil.rmtree(tree)
        return True

    def build(self, tag: str, arguments: Sequence[str], log: Path) -> None:
        """Says in `log` what an operator would see. Layers are kept for the next build where they cost no copies."""
        words = ["bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--tag", tag]
        words += ["--layers"] if self._driver == "overlay" else []
        words += [word for argument in arguments for word in ("--build-arg", argument)]
        command = self.command(*words, "--file", str(ROOT / "deploy" / "Dockerfile"), str(ROOT))
        before = self.ask("images", "--quiet", "--filter", f"reference={tag}")
        with log.open("w") as out:
            done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the image does not build; the end of {log}:\n{log.read_text()[-3_000:]}")
        if before and before != self.ask("images", "--quiet", "--filter", f"reference={tag}"):
            self.ask("rmi", "--force", before)

    def size(self, tag: str) -> str:
        return self.ask("images", "--format", "{{.Size}}", tag)

    def settings(self, tag: str) -> dict[str, Any]:
        """User, Entrypoint, StopSignal and so on."""
        described = json.loads(self.ask("inspect", "--type", "image", tag))
        return described["OCIv1"]["config"]  # type: ignore[no-any-return]

    def remove_containers(self) -> None:
        self.ask("rm", "--all")


def _driver() -> str:
    """vfs works everywhere and copies every layer whole."""
    return "overlay" if "\toverlay\n" in Path("/proc/filesystems").read_text() else "vfs"


class BuildahHouse:
    """Containers of one image. To be used inside `unshare --net --mount --pid`, with which all of it ends."""

    def __init__(self, buildah: Buildah, tag: str, scratch: Path) -> None:
        self._buildah = buildah
        self._tag = tag
        self._settings = buildah.settings(tag)
        self._scratch = scratch
        self._containers: dict[str, str] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        _make_network()

    def create(self, service: Service) -> None:
        """The container, its place in the network and its volumes; nothing runs in it yet."""
        names = [word for name in ("kafka", "redis") for word in ("--add-host", f"{name}:{GATEWAY}")]
        container = self._buildah.ask("from", "--isolation", "chroot", "--pull-never", *names, self._tag)
        self._containers[service.name] = container
        _join_network(service.name, number=1 + len(self._containers))
        root = Path(self._buildah.ask("mount", container))
        for name, target in service.volumes:
            if "/" in name:
                raise ValueError(f"{service.name}: only named volumes are understood here, got {name}")
            if not (volume := self._scratch / "volumes" / name).exists():
                # A new volume begins as what the image has there, its owner too.
                volume.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "--archive", str(root / target.lstrip("/")), str(volume)], check=True)
        self._buildah.ask("umount", container)

    def start(self, service: Service) -> None:
        """Returns once its first process runs, or has ended already."""
        command = self._run(service, [*(self._settings.get("Entrypoint") or []), *service.command])
        with self.log(service).open("ab") as log:
            runner = self._running[service.name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while runner.poll() is None and not _payloads(runner.pid):
            time.sleep(0.05)

    def execute(self, service: Service, command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Beside its first process: in its namespaces and root, as its user. Raises subprocess.TimeoutExpired."""
        first = self._first_process(service)
        where = ["--target", str(first.pid), "--net", "--mount", "--uts", "--root", "--wd"]
        user = ["--setuid", str(first.uids().effective), "--setgid", str(first.gids().effective)]
        return subprocess.run(
            ["nsenter", *where, *user, "--", *command],
            env=first.environ(),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def wait(self, service: Service, timeout_s: float) -> int:
        """The exit status of what ends by itself. Raises subprocess.TimeoutExpired."""
        return self._running[service.name].wait(timeout_s)

    def alive(self, service: Service) -> bool:
        return self._running[service.name].poll() is None

    def stop(self, service: Service) -> tuple[int, float]:
        """Exit status and seconds from the stop signal to the end. Raises subprocess.TimeoutExpired after the grace."""
        process = self._running[service.name]
        name = service.stop_signal or self._settings.get("StopSignal") or "SIGTERM"
        began = time.monotonic()
        self._first_process(service).send_signal(signal.Signals[name])
        return process.wait(service.stop_grace_s), time.monotonic() - began

    def _first_process(self, service: Service) -> psutil.Process:
        if not (processes := _payloads(self._running[service.name].pid)):
            raise RuntimeError(f"{service.name} does not run; its log is {self.log(service)}")
        return processes[0]

    def log(self, service: Service) -> Path:
        return self._scratch / f"{service.name}.log"

    def _run(self, service: Service, command: Sequence[str]) -> list[str]:
        container = self._containers[service.name]
        # The host name that an engine gives: of the container, and so the same after a restart.
        words = ["run", "--isolation", "chroot", "--network", "host", "--hostname", container[-12:]]
        words += ["--user", service.user] if service.user else []
        for name, value in service.environment.items():
            words += ["--env", f"{name}={value}"]
        for name, target in service.volumes:
            words += ["--volume", f"{self._scratch / 'volumes' / name}:{target}"]
        network = ["nsenter", f"--net=/run/netns/{service.name}"]
        return [*network, *self._buildah.command(*words, container, "--", *command)]


def _make_network() -> None:
    """A bridge with the gateway's address. Namespaces by name are a mount, so theirs is a private one."""
    Path("/run/netns").mkdir(exist_ok=True)
    _do("mount -t tmpfs tmpfs /run/netns")
    _do("ip link set lo up")
    _do("ip link add tiderank type bridge")
    _do(f"ip address add {GATEWAY}/24 dev tiderank")
    _do("ip link set tiderank up")


def _join_network(name: str, number: int) -> None:
    _do(f"ip netns add {name}")
    _do(f"ip link add to-{name} type veth peer name eth0 netns {name}")
    _do(f"ip link set to-{name} master tiderank up")
    _do(f"ip -n {name} address add {GATEWAY.rpartition('.')[0]}.{number}/24 dev eth0")
    _do(f"ip -n {name} link set eth0 up")
    _do(f"ip -n {name} link set lo up")


def _do(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr.strip()}")


def _payloads(runner: int) -> list[psutil.Process]:
    """What runs in the container, its first process first. buildah's helpers have our root, or are called after it."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(runner).children(recursive=True)
    return [process for process in found if _is_inside(process)]


def _is_inside(process: psutil.Process) -> bool:
    try:
        return "buildah" not in process.name() and not os.path.samefile(f"/proc/{process.pid}/root", "/")
    except (psutil.NoSuchProcess, OSError):
        return False
