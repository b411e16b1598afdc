"""Import every module of the product, and every module of others that it imports anywhere, inside functions too.

Run by the environment of requirements/gpu.lock: import_everything.py OUT.json CHECKOUT
"""

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

OURS = ("posttrain_verl", "reward_fns", "data_prep", "hydra_plugins")


def modules(checkout: Path, package: str) -> Iterator[tuple[str, Path]]:
    for file in sorted((checkout / package).rglob("*.py")):
        parts = file.relative_to(checkout).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imported(file: Path) -> Iterator[str]:
    """What a file imports, as dotted names; of `from a import b` both `a` and `a.b`, for b may be a module."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}:{alias.name}" for alias in node.names)


def attempt(name: str) -> str:
    """The error of an import, or "". `module:attribute` asks for the attribute, too."""
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
        if attribute and not hasattr(found, attribute):
            importlib.import_module(f"{module}.{attribute}")
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    out, checkout = map(Path, sys.argv[1:])
    ours = dict(pair for package in OURS for pair in modules(checkout, package))
    names = {*ours, *(name for file in ours.values() for name in imported(file))}
    out.write_text(json.dumps({name: attempt(name) for name in sorted(names)}, indent=2))


if __name__ == "__main__":
    main()
