"""The folders are the architecture: imports run one way."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT: dict[str, set[str]] = {
    "kernels": set(),
    "feature_store": set(),
    "router_bandit": set(),
    "ranker": {"kernels"},
    "streams": {"feature_store", "kernels", "ranker", "router_bandit"},
}
GROUND = {"errors", "kafka", "runtime", "wire"}
"""What most rooms of streams stand on."""
ROOMS: dict[str, dict[str, set[str]]] = {
    "streams": {
        "errors": set(),
        "machine": set(),
        "datasets": {"errors"},
        "wire": {"errors"},
        "runtime": {"errors"},
        "options": {"datasets", "errors"},
        "kafka": {"errors", "runtime", "wire"},
        "fit": {"datasets", "errors", "options", "runtime"},
        "config": {"datasets", "errors", "kafka", "machine", "wire"},
        "client": {"errors", "kafka", "wire"},
        "freshness": {"config", "errors", "kafka", "options", "wire"},
        "workers.ingest": {"config", *GROUND},
        "workers.rank": {"config", "machine", *GROUND},
        "workers.router": {"config", *GROUND},
        "workers.train": {"config", *GROUND},
        "local": {"config", *GROUND},
        "simulate": {"client", "config", "kafka", "options", "wire"},
        "audit": {"config", "workers.ingest", *GROUND},
        "user": {"config", "options", "workers.ingest", *GROUND},
        "operations": {"config", "local", "machine", "options", "workers.train", *GROUND},
        "tuning": {"config", "datasets", "machine", "options", "simulate", "workers.train", *GROUND},
        "load": {"client", "config", "local", "machine", "options", "simulate", *GROUND},
        "replay": {"audit", "client", "config", "datasets", "local", "options", *GROUND},
        "demo": {"audit", "config", "freshness", "local", *GROUND},
        "cli": {"audit", "config", "demo", "freshness", "local", "operations", "options", *GROUND},
    },
    "ranker": {
        "arrays": set(),
        "delayed": {"arrays"},
        "grades": {"arrays"},
        "config": {"delayed"},
        "recipes": {"config"},
        "inputs": {"arrays", "config", "delayed"},
        "model": {"config", "inputs"},
        "planning": {"arrays", "inputs"},
        "tabular": {"arrays", "config", "grades", "inputs", "model"},
        "updates": {"arrays", "config", "inputs", "model"},
        "compiled": {"arrays", "config", "inputs", "model"},
        "engine": {"arrays", "compiled", "config", "inputs", "model", "updates"},
        "snapshots": {"inputs", "updates"},
        "learning": {
            "arrays",
            "config",
            "delayed",
            "engine",
            "grades",
            "inputs",
            "model",
            "snapshots",
            "updates",
        },
        "gate": {"arrays", "config", "engine", "grades", "inputs", "updates"},
        "tuning": {"arrays", "config", "engine", "grades", "inputs", "learning", "model", "updates"},
    },
}
"""Rooms of each package, and which others each may import: all are above it in the list, so there is no circle."""
TOP_MAX = {"streams": 22, "ranker": 16}
HEAVY = {"torch", "torchrec", "fbgemm_gpu", "triton", "vowpalwabbit", "faust"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Root names of all imports, wherever they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folders_import_only_downwards(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    for path in paths:
        ours = set(imported(ast.parse(path.read_text()))) & (MAY_IMPORT.keys() | {"tests", "benchmarks"})
        wrong = ours - MAY_IMPORT[folder] - {folder}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}: up or sideways"


def room_of(module: str) -> str:
    """The part of a package that a module belongs to: a file or folder at its top; of the workers, each folder."""
    _, *inner = module.split(".")
    return ".".join(inner[:2]) if inner[:1] == ["workers"] else "".join(inner[:1])


def arrows(package: str) -> Iterator[tuple[str, str, str]]:
    """(file, its room, another room that it imports from), wherever the import stands."""
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                if module.startswith(f"{package}.") and room_of(module) != room_of(name):
                    yield str(path.relative_to(ROOT)), room_of(name), room_of(module)


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_downwards(package: str) -> None:
    may = ROOMS[package]
    order = list(may)
    for room, others in may.items():
        assert all(order.index(other) < order.index(room) for other in others), f"{room}: a circle, or an arrow upward"
    wrong = [f"{file} imports {to}" for file, room, to in arrows(package) if to not in may.get(room, set())]
    assert not wrong, "an arrow that ROOMS does not have"
    there = {path.stem for path in (ROOT / package).glob("[a-z]*") if path.suffix in ("", ".py")}
    assert there == {room.partition(".")[0] for room in may}, "ROOMS lists every room, and none that is gone"
    assert len(there) <= TOP_MAX[package]


def test_packages_themselves_import_nothing_heavy() -> None:
    code = f"import sys, {', '.join(MAY_IMPORT)}; print(*sorted(sys.modules.keys() & {HEAVY!r}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_no_command_s_help_imports_anything_heavy() -> None:
    code = f"""
import sys, click
from click.testing import CliRunner
from streams.cli import cli

commands = [[name] for name in cli.list_commands(click.Context(cli))]
commands += [[*words, name] for words in commands if isinstance(group := cli.commands.get(*words), click.Group)
             for name in group.commands]
for words in commands:
    assert CliRunner().invoke(cli, [*words, "--help"]).stdout.startswith("Usage: "), words
    if heavy := sorted(sys.modules.keys() & {HEAVY | {"pyarrow", "matplotlib", "sklearn"}!r}):
        sys.exit(f"{{words}} {{heavy}}")
print(len(commands))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.stderr, result.returncode) == ("", 0)
    assert int(result.stdout) > 20


def test_nothing_is_unpickled() -> None:
    """torch.load and numpy's allow_pickle run what a file says; safetensors' own load does not."""
    for folder in [*MAY_IMPORT, "benchmarks"]:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    unsafe = called == "torch.load" or any(word.arg == "allow_pickle" for word in node.keywords)
                    assert not unsafe, f"{path.relative_to(ROOT)}:{node.lineno} unpickles"
            roots = set(imported(ast.parse(path.read_text())))
            assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path


def test_files_stay_readable_at_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in [*MAY_IMPORT, "tests", "benchmarks"]
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) >= 400
    }
    assert not long, "split these by idea"


def test_functions_stay_readable_without_scrolling() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for folder in [*MAY_IMPORT, "tests", "benchmarks"]
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60  # type: ignore[operator]
    ]
    assert not long, "split these by idea"


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("streams.config.load", "confluent_kafka"),
        ("streams.workers.rank.worker", "rich"),
        ("streams.workers.rank.worker", "streams.local"),
        ("streams.client", "torch"),
    ],
)
def test_imports_on_demand(module: str, without: str) -> None:
    code = f"import sys, {module}; sys.exit({without!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_docstrings_begin_with_what_a_thing_is_or_does() -> None:
    """A genitive says nothing in help(), on hover and in --help: a field begins with a noun, a function with a verb."""
    wrong = []
    for path in (path for folder in [*MAY_IMPORT, "tests", "benchmarks"] for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            said = (
                node.value
                if isinstance(node, ast.Expr) or (isinstance(node, ast.keyword) and node.arg == "help")
                else None
            )
            if isinstance(said, ast.Constant) and str(said.value).lstrip().startswith("Of "):
                wrong.append(f"{path.relative_to(ROOT)}:{said.lineno}")
    assert not wrong
