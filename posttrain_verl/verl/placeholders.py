"""Stand-ins for packages that VeRL imports at the top of a module and one process that trains never calls.

VeRL imports Ray, vLLM's web server and its readers of data wherever it is imported. An engine in one process needs none of
them. Where one is missing, a stand-in takes its place while VeRL is imported, and goes when that is done: whoever asks for
the package afterwards hears that it is missing.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

# What `import verl.workers.engine_workers` of VeRL 0.9.1 asks for beyond what its FSDP engine runs with.
UNUSED = frozenset({"PIL", "datasets", "fastapi", "pandas", "pydantic", "ray", "uvicorn", "zmq"})


class _Anything(type):
    """A class whose attributes are such classes. Called with a function it returns the function, as a decorator does."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})

    def __call__(cls, *args: Any, **_: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) else cls


class _Finder:
    """Makes the missing modules, and remembers which it made. It is asked last, so what is installed is used."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names, self.made = names, list[str]()

    def find_spec(self, name: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:  # fmt: skip
        if name.partition(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = _Anything("module", (), {}).__getattr__  # type: ignore[method-assign]
        self.made.append(spec.name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def for_missing_packages(names: frozenset[str] = UNUSED) -> Iterator[list[str]]:
    """While it lasts, those of `names` that are not installed can be imported; gives the list of what was.

    `transformers` and its kin look for packages, too, and must not find these: import them before.
    """
    finder = _Finder(names)
    sys.meta_path.append(finder)
    try:
        yield finder.made
    finally:
        sys.meta_path.remove(finder)
        for name in finder.made:
            sys.modules.pop(name, None)
