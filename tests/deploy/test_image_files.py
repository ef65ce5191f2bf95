"""What building the image and starting its services needs, seen without doing it: `make image-test` does it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.dockerfile import copied, installs, let_through, python_version
from tests.image.compose import COMPOSE, ROOT, in_profile, load, our_services, profiles

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IGNORE = ROOT / ".dockerignore"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
UV = Path(sys.executable).with_name("uv")
OURS = ("streams", "ranker", "router_bandit", "feature_store", "kernels", "benchmarks")

EXTRAS = (r"tiderank\[([\w,-]+)\]", r"--extra[ =]([\w-]+)", r"[Ee]xtras? `([\w-]+)`", r"`([\w-]+)` extra\b")
PROFILES = (r"--profile[ =]([\w-]+)", r"COMPOSE_PROFILES=([\w,-]+)")
SERVICES = (
    r"--scale[ =]([\w-]+)=",
    r"(?:docker|\$\(DOCKER\))[ -]compose (?:exec|logs|restart|run|start|stop) ([\w-]+)",
)
"""How each is named anywhere."""


def where_named() -> Iterator[Path]:
    """Files that tell people, or machines, what to type."""
    yield from (ROOT / name for name in ("README.md", "Makefile", ".env", "pyproject.toml", ".ci/run"))
    yield from (COMPOSE, DOCKERFILE)
    yield from sorted((ROOT / "docs").glob("*.md"))
    for folder in OURS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def named(patterns: tuple[str, ...]) -> dict[str, list[str]]:
    """Names, with where they stand."""
    found: dict[str, list[str]] = {}
    for path in where_named():
        text = path.read_text()
        for match in (match for pattern in patterns for match in re.finditer(pattern, text)):
            line = text.count("\n", 0, match.start()) + 1
            for name in match[1].split(","):
                found.setdefault(name, []).append(f"{path.relative_to(ROOT)}:{line}")
    return found


@pytest.mark.parametrize(
    ("patterns", "existing"),
    [
        pytest.param(EXTRAS, lambda: set(PROJECT["project"]["optional-dependencies"]), id="extras"),
        pytest.param(PROFILES, lambda: profiles(load()), id="profiles"),
        pytest.param(SERVICES, lambda: set(load()["services"]), id="services"),
    ],
)
def test_what_is_named_anywhere_exists(patterns: tuple[str, ...], existing: Callable[[], set[str]]) -> None:
    names = named(patterns)
    assert names, "nothing is named: the patterns are out of date"
    missing = {name: places for name, places in names.items() if name not in existing()}
    assert not missing, f"named, and not there (there are {sorted(existing())}): {missing}"


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "environment"
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, str(path)], check=True, cwd=path.parent)
    return path


@pytest.mark.parametrize("line", installs(DOCKERFILE))
def test_every_install_line_resolves(line: str, empty_environment: Path) -> None:
    """To something: uv leaves out in silence what an override of the project's takes out."""
    packages = resolved(line, empty_environment)
    assert packages, f"{line} installs nothing"
    if "-r pyproject.toml" in line:
        assert {"torch", "torchrec", "pyarrow"} <= packages.keys(), "the workers and the files' readers need them"
        assert [name for name in packages if name.startswith("fbgemm")] == ["fbgemm-gpu-cpu"]
        lock = {line.partition(" ")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
        unlocked = {f"{name}=={version}" for name, version in packages.items()} - lock
        assert not unlocked, "not in the versions of the lock"


def test_an_index_of_cpu_builds_leaves_out_all_of_cuda(empty_environment: Path, tmp_path: Path) -> None:
    """On an index with nothing but a torch of the locked version that asks for nothing."""
    (line,) = [line for line in installs(DOCKERFILE) if "-r pyproject.toml" in line]
    cuda = resolved(line, empty_environment)
    version = f"{cuda['torch']}+cpu"
    folder = tmp_path / "torch"
    folder.mkdir()
    wheel = f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / wheel, "w") as archive:
        archive.writestr(
            f"torch-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )
        archive.writestr(f"torch-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"torch-{version}.dist-info/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{wheel}">{wheel}</a>')
    packages = resolved(line, empty_environment, TORCH_INDEX=tmp_path.as_uri())
    assert packages["torch"] == version
    assert any(name.startswith("nvidia-") for name in cuda)
    assert not any(name.startswith("nvidia-") for name in packages)


def resolved(line: str, environment: Path, **variables: str) -> dict[str, str]:
    """Names and versions of what an install line of the Dockerfile would bring, with build arguments as variables."""
    command = f"{UV}{line.removeprefix('uv')} --dry-run --python-version {python_version(DOCKERFILE)}"
    shown = {**os.environ, "VIRTUAL_ENV": str(environment), **variables}
    # As RUN does it, and in the folder that has what it copies.
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=shown, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return dict(re.findall(r"^ \+ ([\w-]+)(?:==| @ )(\S+)", done.stderr, re.MULTILINE))


def test_every_path_that_is_copied_exists_and_is_let_through() -> None:
    sources = copied(DOCKERFILE)
    assert "." in sources
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [source for source in sources if source != "."]
    needed += [PROJECT["project"]["readme"], "LICENSE", *wheel["packages"], *wheel["force-include"]]
    for name in needed:
        assert (ROOT / name).exists(), f"{name} is copied into the image, or its wheel needs it, and it is not there"
        for path in [ROOT / name, *(ROOT / name).rglob("*.py")]:
            inside = str(path.relative_to(ROOT))
            assert let_through(IGNORE, inside), f".dockerignore keeps {inside} out of the image, which needs it"


@pytest.mark.parametrize(
    "path", [".git/config", ".venv/bin/python", ".cache/x", "tests/x.py", "ranker/__pycache__/x.pyc"]
)
def test_what_no_image_needs_is_kept_out(path: str) -> None:
    assert not let_through(IGNORE, path)


def test_a_plain_start_brings_every_worker_once() -> None:
    """.env names the profile of a start that names none; each worker's own command exists."""
    from streams.cli import cli

    (profile,) = re.findall(r"^COMPOSE_PROFILES=(\w+)$", (ROOT / ".env").read_text(), re.MULTILINE)
    compose = load()
    for each in (profile, "gpu"):
        ours = our_services(compose, each)
        workers = sorted(service.command[1] for service in ours if not service.one_off)
        assert workers == ["ingest", "learn", "rank", "rewards", "train"], f"profile {each}"
        for service in ours:
            assert service.command[0] in PROJECT["project"]["scripts"], service
            assert service.command[1] in cli.commands, f"{service.name}: tiderank has no command {service.command[1]}"
            assert service.one_off or service.healthcheck is not None, f"{service.name} has no health check"


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose here: the file is not validated")
@pytest.mark.parametrize("profile", sorted(profiles(load())))
def test_compose_accepts_the_file(profile: str) -> None:
    done = subprocess.run(
        ["docker-compose", "--profile", profile, "config"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # As our own reading of the file, on which `make image-test` relies.
    theirs = yaml.safe_load(done.stdout)["services"]
    for service in our_services(load(), profile):
        assert tuple(theirs[service.name]["command"]) == service.command
        assert theirs[service.name]["environment"] == service.environment
    assert in_profile(load(), profile).keys() <= theirs.keys()
