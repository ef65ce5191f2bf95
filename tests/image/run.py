"""`make image-test`: builds the image and runs the compose file's profile `cpu` from it, as an operator would.

Every service that is built from this repository is started by its own command, environment, user and health check;
requests are answered, clicks and conversions are learned; every service is stopped by its own signal within its grace,
started again, and goes on where it was. Ends with exit status 1 where anything is not so.

    python -m tests.image.run [--build-arg NAME=VALUE ...] [--tag TAG]
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from streams.errors import StartError
from streams.kafka.connection import Kafka
from streams.local import kafka as local_kafka
from streams.local.process import listening
from tests.image import buildah, docker
from tests.image.buildah import CACHE, GATEWAY, Buildah, BuildahHouse
from tests.image.compose import load, our_services
from tests.image.docker import ComposeHouse
from tests.image.scenario import Different, Report, Scenario
from tests.image.servers import address_on_host, both

PROFILE = "cpu"
TAG = "tiderank:cpu"
RECIPE = "demo"
SCRATCH = CACHE / "run"
NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def main() -> int:
    options = _options()
    began = time.monotonic()
    try:
        _inside(options.tag) if options.inside else _test(options)
    except (Different, RuntimeError, StartError, TimeoutError, subprocess.SubprocessError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if not options.inside:
        print(f"all is as it must be, after {time.monotonic() - began:.0f} s")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.image.run")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="for the Dockerfile")
    parser.add_argument("--tag", default=TAG, help=f"the image's name (default {TAG})")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _test(options: argparse.Namespace) -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    print(f"{'':<34} {'seconds':>7}  seen")
    if docker.found():
        _with_engine(options)
    elif obstacle := buildah.why_not() or local_kafka.why_not():
        raise RuntimeError(f"no Docker engine answers, and without one: {obstacle}")
    else:
        _without_engine(options)


def _without_engine(options: argparse.Namespace) -> None:
    """The build needs the network that is here. All that runs has one of its own, and ends with its first process."""
    store, report = Buildah(SCRATCH / "buildah"), Report()
    with report.step("base image") as seen:
        seen.append("made by debootstrap" if store.make_base() else "kept from an earlier run")
    with report.step("image") as seen:
        store.build(options.tag, options.build_arg, CACHE / "build.log")
        seen.append(f"{options.tag}, {store.size(options.tag)}")
    local_kafka.libraries(print)
    again = [sys.executable, "-m", "tests.image.run", "--inside", "--tag", options.tag]
    try:
        if subprocess.run([*NAMESPACES, *again], check=False).returncode != 0:
            raise RuntimeError("not all is as it must be, see above")
    finally:
        store.remove_containers()


def _compose() -> dict[str, Any]:
    """The compose file with the recipe that it lets its caller choose: one whose windows are over within seconds."""
    os.environ.setdefault("TIDERANK_RECIPE", RECIPE)
    return load()


def _inside(tag: str) -> None:
    compose, report = _compose(), Report()
    # What was mounted in other namespaces is unknown here.
    house = BuildahHouse(Buildah(SCRATCH / "buildah-inside"), tag, SCRATCH)
    with ExitStack() as closing:
        with report.step("Kafka and Redis") as seen:
            closing.enter_context(both(compose, SCRATCH / "servers", GATEWAY))
            seen.append("on the ports of the compose file, in a network of their own")
        Scenario(house, our_services(compose, PROFILE), _kafka(compose), report).run()


def _with_engine(options: argparse.Namespace) -> None:
    """Kafka and Redis are those of the compose file, so their ports must be free here."""
    compose, report = _compose(), Report()
    with report.step("image") as seen:
        docker.build(options.tag, options.build_arg, CACHE / "build.log")
        seen.append(f"{options.tag}, {docker.size(options.tag)}")
    for name in ("kafka", "redis"):
        if listening(int((address := address_on_host(compose, name)).rpartition(":")[2])):
            raise RuntimeError(f"something listens at {address}, where the compose file has {name}; end it first")
    house = ComposeHouse(PROFILE, SCRATCH)
    try:
        with report.step("Kafka and Redis") as seen:
            house.start_servers()
            seen.append("from their own images")
        Scenario(house, our_services(compose, PROFILE), _kafka(compose), report).run()
    finally:
        house.remove()


def _kafka(compose: Mapping[str, Any]) -> Kafka:
    """As a client on this machine reaches it."""
    return Kafka(address_on_host(compose, "kafka"), {})


if __name__ == "__main__":
    sys.exit(main())
