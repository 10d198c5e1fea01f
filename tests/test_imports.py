"""The arrows of the design stay as they are: who may import whom, no torch or TensorFlow at run time, short files."""
import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "medvlp_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Folder -> what of ours its files may import, itself included.
ARROWS = {
    "losses": ("losses.numerics",),
    "models": ("models",),
    "reports": ("reports",),
    "input": ("input", "reports", "atomic", "errors"),
    "methods": ("methods", "models", "losses", "reports.vocab", "method"),
    "tasks": ("tasks", "method", "reports", "atomic"),
}
# Folder -> libraries it must not see.
CLOSED = {
    "reports": {"jax", "flax", "optax", "torch", "tensorflow"},
    "input": {"jax", "flax", "optax", "torch", "tensorflow"},
    "losses": {"flax", "numpy", "torch", "tensorflow"},
    "models": {"optax", "torch", "tensorflow"},
    "tasks": {"optax", "flax", "torch", "tensorflow"},
}


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("folder", ARROWS)
def test_imports_of_ours_follow_the_arrows(folder):
    files = sorted((PACKAGE / folder).glob("*.py"))
    assert files
    wrong = [
        f"{path.name} imports {name}"
        for path in files
        for name in imports(path)
        if under(name, "medvlp_jax") and not any(under(name, f"medvlp_jax.{allowed}") for allowed in ARROWS[folder])
    ]
    assert not wrong


@pytest.mark.parametrize("folder", CLOSED)
def test_libraries_that_a_folder_must_not_see(folder):
    wrong = [
        f"{path.name} imports {name}"
        for path in sorted((PACKAGE / folder).glob("*.py"))
        for name in imports(path)
        if any(under(name, library) for library in CLOSED[folder])
    ]
    assert not wrong


def test_no_file_is_over_300_lines():
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 300}
    assert len(FILES) > 50 and not long


def test_torch_is_imported_only_where_a_torch_file_is_read():
    places = {str(p.relative_to(PACKAGE)) for p in FILES for name in imports(p) if under(name, "torch")}
    assert {p for p in places if not p.startswith("bench/torch_")} <= {"weights/files.py"}
    top = {alias.name for node in ast.parse((PACKAGE / "weights/files.py").read_text()).body if isinstance(node, ast.Import)
           for alias in node.names}  # fmt: skip
    assert "torch" not in top


def test_a_run_loads_neither_torch_nor_tensorflow_and_reports_not_even_jax(tmp_path):
    """As it is, not as the files say: libraries import libraries (tensorboardX takes torch where it is installed)."""
    code = """
import sys, pathlib
from medvlp_jax.reports import rules, radgraph, triplets, sections
assert "jax" not in sys.modules
import medvlp_jax.train, medvlp_jax.evaluate, medvlp_jax.weights, medvlp_jax.methods.mlip, medvlp_jax.methods.medklip
from medvlp_jax import metrics
writer = metrics.Writer(pathlib.Path(sys.argv[1]), 2)
writer.write(1, {"loss": 1.0})
writer.close()
print(*({"torch", "tensorflow"} & set(sys.modules)), "end")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "end"
    assert list((tmp_path / "tensorboard").glob("events*"))
