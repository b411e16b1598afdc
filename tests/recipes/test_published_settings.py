"""What each recipe's published setting fixes: a change of a recipe that drifts from it fails here.

The table is published_settings.yaml; values are those that VeRL gets on the hardware the recipe is planned for.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths, preflight
from posttrain_verl.compose import Composed, compose
from posttrain_verl.preflight import disk
from posttrain_verl.problem import blocking

TABLE: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("published_settings.yaml")))
SETTINGS: dict[str, Any] = TABLE["recipes"]


def test_every_recipe_of_the_library_is_in_the_table():
    library = {path.stem for path in paths.recipes_dir().glob("*.yaml") if not path.stem.startswith("demo_")}
    assert set(SETTINGS) == library


def on_its_hardware(name: str, *words: str) -> Composed:
    return compose([f"recipe={name}", *f"hardware={SETTINGS[name]['hardware']}".split(), *words])


@pytest.mark.parametrize("name", SETTINGS)
def test_the_recipe_is_the_published_setting(name):
    composed, setting = on_its_hardware(name), SETTINGS[name]
    assert composed.model == setting["model"]
    found = {key: OmegaConf.select(composed.verl, key) for key in setting["keys"]}
    assert {
        key: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value for key, value in found.items()
    } == setting["keys"]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_header_names_hardware_and_evaluations(name):
    header = [line for line in (paths.recipes_dir() / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    run, needs = (next(line for line in header if line.startswith(word)) for word in ("# Run:", "# Needs:"))
    assert run.endswith(f"recipe={name} hardware={SETTINGS[name]['hardware']}")
    assert "GPU" in needs and "measured" in needs
    assert on_its_hardware(name).posttrain.evals


@pytest.mark.parametrize("name", SETTINGS)
def test_the_header_says_the_disk_that_is_planned(name, tmp_path):
    header = (paths.recipes_dir() / f"{name}.yaml").read_text().splitlines()
    needs = next(line for line in header if line.startswith("# Needs:"))
    composed = on_its_hardware(name, f"posttrain.data_dir={tmp_path}")
    assert f", {disk.size(disk.needs(composed))} of disk" in needs


ROWS = 12_000  # what the longest schedule asks for: 200 steps of 512 in ten epochs


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five files of every mix, with one row often repeated."""
    folder = tmp_path_factory.mktemp("data")
    extra = {"split": "rl_train", "index": 0, "id": "0"}
    question, answer = {"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}
    rl = {"data_source": "openai/gsm8k", "prompt": [question], "ability": "math",
          "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": extra}  # fmt: skip
    sft = {"messages": [question, answer], "extra_info": extra}
    for stage, row in (("rl", rl), ("sft", sft)):
        pq.write_table(pa.Table.from_pylist([row] * ROWS), folder / f"{stage}.parquet")
    for mix in ("math", "math_rl", "gsm8k", "math_l3to5", "dapo_math", "code"):
        (folder / mix).mkdir()
        for file in ("rl_train", "rl_val", "sft_train", "sft_val"):
            (folder / mix / f"{file}.parquet").hardlink_to(folder / f"{file.partition('_')[0]}.parquet")
    return folder


# What these files cannot show, or a hub would have to be asked for.
ABOUT_REAL_DATA = ("disk",)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_recipe_can_launch_on_its_hardware(name, data_dir):
    composed = on_its_hardware(name, f"posttrain.data_dir={data_dir}")
    assert blocking(preflight.run(composed, skip=ABOUT_REAL_DATA).problems) == []


@pytest.mark.parametrize("name", SETTINGS)
def test_the_recipe_can_launch_on_a_cpu(name, tmp_path):
    composed = compose([f"recipe={name}", "hardware=cpu", f"posttrain.data_dir={tmp_path}"])
    assert blocking(preflight.run(composed).problems) == []
