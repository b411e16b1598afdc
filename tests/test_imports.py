"""Imports go one way: reward_fns <- data_prep <- posttrain_verl, and only the process that trains imports VeRL."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"verl", "ray", "torch", "vllm"}
LAZY_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def imports(tree: ast.AST, inside_functions: bool) -> Iterator[str]:
    """Dotted names that a module imports; relative imports stay inside their package and are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif inside_functions or not isinstance(node, LAZY_FUNCTION):
            yield from imports(node, inside_functions)


def imported(package: str, inside_functions: bool = True) -> set[tuple[str, str]]:
    """(file, dotted name) for each import in a package."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package} has no modules: this test would hold nothing"
    return {
        (str(file.relative_to(ROOT)), name)
        for file in files
        for name in imports(ast.parse(file.read_text()), inside_functions)
    }


def offenders(seen: set[tuple[str, str]], forbidden: set[str]) -> list[tuple[str, str]]:
    return sorted((file, name) for file, name in seen if name.split(".")[0] in forbidden)


@pytest.mark.parametrize("package", ["reward_fns", "data_prep"])
def test_libraries_are_light(package):
    assert not offenders(imported(package, inside_functions=False), HEAVY)


def test_reward_fns_knows_neither_data_prep_nor_the_product():
    assert not offenders(imported("reward_fns"), {"data_prep", "posttrain_verl"})


def test_data_prep_does_not_know_the_product():
    assert not offenders(imported("data_prep"), {"posttrain_verl"})


def test_only_the_training_process_imports_verls_trainers():
    allowed = ("posttrain_verl/cpu/", "posttrain_verl/verl/")
    seen = {(file, name) for file, name in imported("posttrain_verl") if name.startswith("verl.trainer")}
    assert not sorted((file, name) for file, name in seen if not file.startswith(allowed))


def test_composing_and_launching_import_nothing_heavy():
    """The user's process answers in a second: torch, Ray and VeRL belong to the processes that it starts."""
    script = f"import posttrain_verl.launch, sys; print(sorted({HEAVY | {'transformers'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_a_check_does_not_import_what_it_does_not_use():
    """Each of these takes some hundredths of a check."""
    unused = {"asyncio", "http.client", "jinja2", "pyarrow.compute"}
    script = f"import posttrain_verl.check, sys; print(sorted({unused} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


def test_the_reader_of_imports_sees_them():
    tree = ast.parse("import a.b\nfrom c import d\nif x:\n    import e\ndef f():\n    import g\nfrom . import h")
    assert sorted(imports(tree, inside_functions=False)) == ["a.b", "c.d", "e"]
    assert sorted(imports(tree, inside_functions=True)) == ["a.b", "c.d", "e", "g"]
