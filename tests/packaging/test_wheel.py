"""A built wheel in an environment of its own, outside the checkout, finds its recipes and conf and composes them."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))

INSPECT = """
import importlib.metadata, json, pathlib
import data_prep, posttrain_verl, reward_fns
from posttrain_verl import paths
points = [point for group in ("verl.plugins", "vllm.general_plugins")
          for point in importlib.metadata.entry_points(group=group) if point.name.startswith("posttrain")]
print(json.dumps({
    "modules": [module.__file__ for module in (posttrain_verl, reward_fns, data_prep)],
    "conf": str(paths.conf_dir()),
    "recipes": sorted(path.stem for path in paths.recipes_dir().glob("*.yaml")),
    "points": sorted({(point.group, point.value) for point in points}),
    "loaded": [bool(point.load()) for point in points],
}))
"""

COMPOSE = """
import sys
from posttrain_verl.compose import compose
composed = compose(["recipe=" + sys.argv[1]])
assert composed.recipe == sys.argv[1] and "posttrain" not in composed.verl and composed.verl.trainer.total_epochs
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, timeout=120)
    return next(folder.glob("posttrain_verl-*.whl"))


@pytest.fixture(scope="session")
def run(wheel, tmp_path_factory):
    """Runs a script in the fresh environment, from a folder that is not the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(command, check=True, timeout=120)
    site = next((folder / "env" / "lib").glob("python*/site-packages"))
    # The dependencies come from the environment of the tests. A .pth file found through a .pth file is not read,
    # so the checkout, installed there in place, stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def in_environment(script: str, *arguments: str) -> str:
        result = subprocess.run(
            [python, "-c", script, *arguments], cwd=folder, env=variables, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return in_environment


def test_the_installed_package_is_the_one_that_runs(run):
    seen = json.loads(run(INSPECT).splitlines()[-1])
    assert not [file for file in [*seen["modules"], seen["conf"]] if Path(file).is_relative_to(ROOT)]
    assert seen["recipes"] == RECIPES
    assert seen["points"] == [
        ["verl.plugins", "posttrain_verl.cpu.verl_plugin"],
        ["verl.plugins", "posttrain_verl.verl.plugin"],
        ["vllm.general_plugins", "posttrain_verl.cpu.vllm_plugin:register"],
        ["vllm.general_plugins", "posttrain_verl.verl.vllm_models:register"],
    ]
    assert all(seen["loaded"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_composes_outside_the_checkout(run, recipe):
    run(COMPOSE, recipe)


def test_the_wheel_holds_the_product_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    packages = {"posttrain_verl", "reward_fns", "data_prep", "hydra_plugins"}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    conf = {f"posttrain_verl/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert conf and conf <= set(names)
