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
