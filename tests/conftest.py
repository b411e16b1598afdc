"""Property tests draw the same examples in every run: a change is not blamed for an example of chance.

`pytest --hypothesis-profile=search` draws new ones, thirty times as many, and prints how to repeat a failure.

In the CPU environment they are tests of the CPU, also on a machine with a GPU.

What lay in the home and the caches is noted before the first test, because tests fill them: test_fresh_machine.py asks."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

from posttrain_verl.machine import devices
from posttrain_verl.run.environment import LOGICAL_GPUS
from posttrain_verl.terminal import console

settings.register_profile("search", settings.get_profile("ci"), derandomize=False, max_examples=3000)
settings.load_profile("ci")

if devices.torch_build().cuda is None and devices.read_driver().devices:
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(["-1"] * LOGICAL_GPUS)

# The variables that may name a folder where something is kept from one run to the next: `.ci/run` unsets them.
KEEPS = re.compile(
    r"HOME|TMPDIR|(?!PIP_)\w*CACHE\w*|XDG_\w+_HOME|(HF|HUGGINGFACE|TRANSFORMERS|VLLM|TRITON|NUMBA|FLASHINFER|POSTTRAIN)_\w+"
    r"|TORCH\w+|MPL\w+|RAY_TMPDIR"
)
SHOWN = 3  # files of each folder
AT_START = pytest.StashKey[dict[str, list[str]] | None]()


def warm(environ: Mapping[str, str]) -> dict[str, list[str]]:
    """The first files of each folder that is not empty, by the variable that names it; folders without files are nothing.

    A cache that no variable names lies in the home or among the temporary files, and both are searched whole. What pip
    downloaded may stay.
    """
    environ = {"HOME": os.path.expanduser("~"), "TMPDIR": "/tmp", **environ}
    pip = Path(environ.get("XDG_CACHE_HOME") or Path(environ["HOME"], ".cache"), "pip")
    named = {name: os.path.expanduser(value) for name, value in environ.items() if value and KEEPS.fullmatch(name)}
    found = {name: list(islice(_files(place, pip), SHOWN)) for name, place in named.items()}
    return {name: files for name, files in found.items() if files}


def _files(place: str, exempt: Path) -> Iterator[str]:
    """Files and links; a pipe or socket is no cache: make may have one in TMPDIR."""
    for folder, folders, names in os.walk(place):
        folders[:] = [name for name in folders if Path(folder, name) != exempt]
        paths = [Path(folder, name) for name in names + folders]
        yield from (str(path) for path in paths if path.is_symlink() or path.is_file())


def pytest_configure(config: pytest.Config) -> None:
    """Look before the first test. A worker of pytest-xdist starts later and is told what was found."""
    told = getattr(config, "workerinput", None)
    looked = (
        warm(os.environ) if told is None and os.environ.get("CI") else None
    )  # elsewhere it is a developer's own home
    config.stash[AT_START] = told["warm"] if told else looked


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["warm"] = node.config.stash[AT_START]


SFT_ONLY = ("test_sft.py", "test_sweep.py", "test_slurm.py", "test_submission.py")  # real runs without an engine


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests share a worker: those of one file, which share what is slow to make, and all real runs with engines.

    They ask what is left in /dev/shm, and an engine that another test ends leaves the same for a while. The marks of
    `--dist loadgroup` would say it, but pytest-xdist 3.8 does not see them with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "tests/e2e" if file.startswith("tests/e2e/") and not file.endswith(SFT_ONLY) else file

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def machine() -> ModuleType:
    """This file, which tests cannot import by a name."""
    return sys.modules[__name__]


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The lines of progress that the product logs during a test."""
    lines: list[str] = []
    with console.shown(lines.append):
        yield lines


@pytest.fixture(scope="session")
def right_steps() -> list[str]:
    """Right worked steps, as people and models write them: texts of one line or more."""
    texts: list[str] = []
    for line in Path(__file__).parent.joinpath("data_prep/right_steps.txt").read_text("utf-8").splitlines():
        if line.startswith("| "):  # goes on with the text of the line above
            texts[-1] += "\n" + line[2:]
        else:
            texts.append(line)
    return texts
