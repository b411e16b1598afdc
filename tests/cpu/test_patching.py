"""Patches find their targets in the installed versions, and say so when a target has moved."""

import importlib
import inspect
import os
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

from posttrain_verl.cpu import verl_plugin, vllm_plugin
from posttrain_verl.verl import plugin
from posttrain_verl.verl.patching import Patch, PatchTargetMoved, patch


def foreign(first, second):
    return first + second


@patch("foreign", "function", parameters=("first", "second"), needed_by="foreign 1.0 adds")
def times(original):
    def function(first, second):
        return original(first, second) * 10

    return function


@pytest.fixture
def module():
    module = ModuleType("foreign")
    module.function = foreign
    return module


def test_a_patch_replaces_the_function(module):
    times.apply(module)
    assert module.function(1, 2) == 30


def test_a_method_is_found_below_its_class(module):
    module.Owner = type("Owner", (), {"method": lambda self: 1})
    Patch("foreign", "Owner.method", ("self",), "", lambda original: lambda self: original(self) + 1).apply(module)
    assert module.Owner().method() == 2


def test_a_function_that_is_gone(module):
    del module.function
    with pytest.raises(PatchTargetMoved, match=r"foreign\.function is gone; times \(foreign 1\.0 adds\)"):
        times.apply(module)


def test_a_function_with_other_parameters(module):
    module.function = lambda first, third: None
    with pytest.raises(PatchTargetMoved, match=r"takes \('first', 'third'\), times expects \('first', 'second'\)"):
        times.apply(module)


IN_PROCESS = """
import importlib
from posttrain_verl.cpu import verl_plugin, vllm_plugin
vllm_plugin.register()
for one in verl_plugin.PATCHES + vllm_plugin.PATCHES:
    owner = importlib.import_module(one.module)
    for part in one.attribute.split("."):
        owner = getattr(owner, part)
    print("patched" if owner.__module__.startswith("posttrain_verl") else "theirs", one.attribute)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "state"), [("cpu", "patched"), (None, "theirs")])
def test_plugins_act_where_they_are_asked_and_nowhere_else(platform, state):
    environ = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    environ |= {"VERL_PLATFORM": platform} if platform else {}
    done = subprocess.run([sys.executable, "-c", IN_PROCESS], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith(("patched ", "theirs "))]
    assert found == [f"{state} {one.attribute}" for one in verl_plugin.PATCHES + vllm_plugin.PATCHES]


def test_importing_the_plugins_does_nothing_unasked(monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    program = (
        "import sys, importlib.metadata as m; before = m.version\n"
        "import posttrain_verl.cpu.verl_plugin, posttrain_verl.cpu.vllm_plugin as v; v.register()\n"
        "assert m.version is before and 'verl' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_patch_says_why_it_is_needed():
    for one in verl_plugin.PATCHES + vllm_plugin.PATCHES:
        assert any(character.isdigit() for character in one.needed_by), "names the version"
        assert len(inspect.signature(one.replace).parameters) == 1


def test_a_folder_named_trl_is_not_the_package(tmp_path, monkeypatch):
    """TRL writes its outputs into one, and the current folder comes first where Python looks for packages."""
    is_trl_available = plugin.trl_is_a_package.replace(lambda: True)
    (tmp_path / "trl").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_spec("trl") is not None and not is_trl_available()
    (tmp_path / "trl/__init__.py").touch()
    importlib.invalidate_caches()
    assert is_trl_available()
