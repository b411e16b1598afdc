"""The hooks of docs/verl_hooks.md: VeRL has each function that they need, and calls our classes by the names in conf."""

import ast
import re

import pytest
import yaml

from posttrain_verl import paths
from posttrain_verl.verl import schema

ROOT = paths.conf_dir().parent
PAGE = (ROOT / "docs" / "verl_hooks.md").read_text()
NEEDED = sorted(set(re.findall(r"`(verl\.[\w.]+\.[A-Z]\w+\.\w+)`", PAGE)))


@pytest.mark.parametrize("function", NEEDED)
def test_verl_has_what_a_hook_needs(function):
    target, _, name = function.rpartition(".")
    found = schema.find_class(target)
    assert found is not None, f"{target} has moved"
    assert name in {node.name for node in found.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_table_names_functions():
    assert len(NEEDED) >= 8


def test_conf_names_what_we_have():
    trunk = yaml.safe_load((paths.conf_dir() / "rl.yaml").read_text())
    sampler = trunk["trainer"]["v1"]["sampler"]["custom_sampler"]
    named = [trunk["actor_rollout_ref"]["rollout"]["agent"]["agent_loop_manager_class"],
             trunk["trainer"]["checkpoint_callback_class"],
             f"{sampler['path'].removeprefix('pkg://')}.{sampler['name']}"]  # fmt: skip
    for module, _, name in (one.rpartition(".") for one in named):
        file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        defined = {
            node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        assert name in defined, f"{module} has no {name}"
        assert f"`{file.relative_to(ROOT / 'posttrain_verl')}`" in PAGE
