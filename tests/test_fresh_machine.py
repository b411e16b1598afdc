"""In CI the suite began as a new user does: with an empty home and empty caches. `.ci/run` sees to it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain_verl.machine import processes

ROOT = Path(__file__).resolve().parents[1]
CACHES = [
    "CUDA_CACHE_PATH", "FLASHINFER_WORKSPACE_BASE", "HF_ASSETS_CACHE", "HF_DATASETS_CACHE", "HF_HOME", "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "POSTTRAIN_CACHE", "PYTHONPYCACHEPREFIX",
    "SOME_LIBRARY_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "TORCH_HOME", "TRANSFORMERS_CACHE",
    "TRITON_CACHE_DIR", "TRITON_DUMP_DIR", "TRITON_HOME", "VLLM_ASSETS_CACHE", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME",
]  # fmt: skip
# Where each library says it keeps its files: a module, and what to evaluate with it as `m`.
LIBRARIES = {
    "huggingface_hub.constants": "[m.HF_HOME, m.HF_HUB_CACHE, m.HF_ASSETS_CACHE]",
    "vllm.envs": "[m.VLLM_CACHE_ROOT, m.VLLM_CONFIG_ROOT, m.VLLM_ASSETS_CACHE]",
    "torch._inductor.runtime.cache_dir_utils": "[m.default_cache_dir(), m.triton_cache_dir(0)]",
    "posttrain_verl.paths": "[str(m.cache_dir())]",
    "datasets.config": "[str(m.HF_DATASETS_CACHE), str(m.HF_MODULES_CACHE)]",
    "triton.knobs": "[m.cache.dir, m.cache.dump_dir]",
    "numba.core.caching": "[m.AppDirs(appname='numba', appauthor=False).user_cache_dir]",
    "matplotlib": "[m.get_cachedir(), m.get_configdir()]",
}
NEEDED = list(LIBRARIES)[:4]  # the others may be absent
ASK = """
import importlib, json, sys
found = {}
for name, places in json.loads(sys.argv[1]).items():
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    found[name] = eval(places, {'m': module})
print(json.dumps(found))
"""


@pytest.fixture
def cold(tmp_path):
    """The variables of a new user: a home and a folder for temporary files, both empty."""
    places = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "t"}
    for place in places.values():
        place.mkdir()
    return {name: str(place) for name, place in places.items()}


def filled(folder: Path) -> str:
    file = folder / "modelinfos" / "x.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    return str(file)


def test_the_suite_began_on_a_fresh_machine(machine, pytestconfig):
    at_start = pytestconfig.stash[machine.AT_START]
    if at_start is None:
        pytest.skip("CI is not set: the home is a developer's own")
    assert not at_start, "these were there before the first test; `.ci/run` gives an empty home and TMPDIR"


def test_a_new_home_is_cold(cold, machine):
    Path(cold["HOME"], ".cache").mkdir()
    os.mkfifo(Path(cold["TMPDIR"], "GMfifo1"))  # make -j
    assert machine.warm(cold) == {}
    assert machine.warm(cold | {"VLLM_USE_V1": "1", "HF_TOKEN": "x" * 300, "XDG_CACHE_HOME": ""}) == {}


@pytest.mark.parametrize(
    ("name", "inside"), [("HOME", ".cache/vllm"), ("HOME", ".triton/cache"), ("TMPDIR", "torchinductor_me")]
)
def test_a_cache_that_no_variable_names_is_found(cold, machine, name, inside):
    file = filled(Path(cold[name], inside))
    assert machine.warm(cold) == {name: [file]}


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_a_variable_names_is_found(cold, machine, tmp_path, name):
    file = filled(tmp_path / "elsewhere")
    assert machine.warm(cold | {name: str(tmp_path / "elsewhere")}) == {name: [file]}


def test_a_cache_that_is_a_link_is_found(cold, machine, tmp_path):
    filled(tmp_path / "elsewhere")
    link = Path(cold["HOME"], ".cache")
    link.symlink_to(tmp_path / "elsewhere")
    assert machine.warm(cold) == {"HOME": [str(link)]}


def test_downloads_of_pip_may_stay(cold, machine, tmp_path):
    filled(Path(cold["HOME"], ".cache", "pip"))
    filled(tmp_path / "downloads")
    assert machine.warm(cold | {"PIP_CACHE_DIR": str(tmp_path / "downloads")}) == {}
    filled(Path(cold["HOME"], ".cache", "pip-tools"))
    assert list(machine.warm(cold)) == ["HOME"]


@pytest.mark.slow
def test_libraries_keep_their_files_where_it_is_looked(cold, machine):
    """With no variable of their own they lie in the home or TMPDIR, which are searched whole."""
    plain = {name: value for name, value in os.environ.items() if not machine.KEEPS.fullmatch(name)} | cold
    command = [sys.executable, "-c", ASK, json.dumps(LIBRARIES)]
    done = subprocess.run(command, env=plain, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) >= set(NEEDED)
    places = [(name, Path(place)) for name, listed in found.items() for place in listed]
    assert [each for each in places if not any(each[1].is_relative_to(searched) for searched in cold.values())] == []


@pytest.fixture
def ci_run(cold, machine, tmp_path):
    """`ci_run(script, variables)` runs a copy of `.ci/run` with `script` in the place of make, from the home of `cold`."""
    copy = tmp_path / "checkout" / ".ci" / "run"
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", copy)
    plain = {name: value for name, value in os.environ.items() if not machine.KEEPS.fullmatch(name)} | cold

    def run(script: str, variables: dict[str, str]) -> subprocess.CompletedProcess:
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, text in {"make": script, "chromedriver": ""}.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (programs / name).chmod(0o755)
        path = {"PATH": f"{programs}:{os.environ['PATH']}"}
        return subprocess.run(["bash", copy], env=plain | path | variables, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60)  # fmt: skip

    return run


def test_ci_run_gives_the_suite_a_fresh_machine(ci_run, cold, tmp_path):
    filled(Path(cold["HOME"], ".cache", "vllm"))
    filled(tmp_path / "elsewhere")
    script = '[ "$1" = setup ] && exit; find "$HOME" "$TMPDIR" -mindepth 1 >&2; env -0; exit 7'
    ended = ci_run(script, dict.fromkeys([*CACHES, "PIP_CACHE_DIR"], str(tmp_path / "elsewhere")))
    assert (ended.returncode, ended.stderr) == (7, "")
    given = dict(line.split("=", 1) for line in ended.stdout.split("\0") if line)
    assert [name for name in CACHES if name in given] == []
    assert "PIP_CACHE_DIR" in given
    assert processes._FIT_FOR_RAY.fullmatch(given["TMPDIR"])
    assert not Path(given["HOME"]).exists() and not Path(given["TMPDIR"]).exists(), "they are deleted at the end"


def test_ci_run_sets_up_in_the_home_that_is_there(ci_run, cold):
    ended = ci_run('echo "$1" "$HOME"; [ "$1" = test ]', {})
    assert ended.returncode == 1
    assert ended.stdout.split() == ["setup", cold["HOME"]], "no test is run where the environment cannot be built"
