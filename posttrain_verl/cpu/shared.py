"""One warm Python for several commands, one after another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posttrain_verl.cpu import zygote
from posttrain_verl.run import environment


@contextmanager
def warm_python(backend: str, log: Path) -> Iterator[None]:
    """On the CPU backend, let the processes of every command within be forks of one Python; one that is there is shared.

    `backend` is "cpu" or a GPU's name; what the warm Python prints goes to `log`.
    """
    variables = environment.of_processes(backend, local_model=True)
    if not environment.forks(variables) or environment.WARM_PYTHON in os.environ:
        yield
        return
    with log.open("ab") as out, zygote.warm(variables, out) as python:
        os.environ[environment.WARM_PYTHON] = str(python)
        try:
            yield
        finally:
            del os.environ[environment.WARM_PYTHON]
