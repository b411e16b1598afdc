"""Each recipe against its source: what differs must stand in docs/recipes.md, with both values.

published_settings.yaml holds what the source sets; ours is what VeRL gets on the hardware that the recipe is planned for.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from posttrain_verl import paths, preflight
from posttrain_verl.compose import compose
from posttrain_verl.preflight import capacity, data
from posttrain_verl.terminal.problem import blocking
from posttrain_verl.verl.composed import Composed

TABLE: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("published_settings.yaml")))
SETTINGS: dict[str, Any] = TABLE["recipes"]
PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


def table_rows() -> list[list[str]]:
    """The cells of each row of the table of differences."""
    below = PAGE.read_text(encoding="utf-8").partition("| recipe | key | ours | source | why |\n")[2]
    rows = below.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.removeprefix("|").removesuffix("|").split("|")] for row in rows]


def written_differences(recipe: str) -> dict[str, tuple[Any, Any]]:
    """Of each key that the page names for a recipe: what it says of ours and of the source."""
    return {
        full_key(recipe, key.strip("`")): (read_value(ours), read_value(source))
        for recipes, key, ours, source, _ in table_rows()
        if key.startswith("`") and recipe in recipes.split(", ")
    }


def full_key(recipe: str, key: str) -> str:
    """The page leaves out `actor_rollout_ref`."""
    return key if key in SETTINGS[recipe]["keys"] else f"actor_rollout_ref.{key}"


def read_value(cell: str) -> Any:
    return plain(OmegaConf.create(f"value: {cell}").value)


def plain(value: Any) -> Any:
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def test_every_recipe_of_the_library_is_in_the_table():
    library = {path.stem for path in paths.recipes_dir().glob("*.yaml") if not path.stem.startswith("demo_")}
    assert set(SETTINGS) == library


def on_its_hardware(name: str, *words: str) -> Composed:
    return compose([f"recipe={name}", *f"hardware={SETTINGS[name]['hardware']}".split(), *words])


@pytest.mark.parametrize("name", SETTINGS)
def test_every_difference_from_the_source_is_written_down(name):
    composed, setting = on_its_hardware(name), SETTINGS[name]
    assert composed.model == setting["model"]
    found = {key: (plain(OmegaConf.select(composed.verl, key)), source) for key, source in setting["keys"].items()}
    assert written_differences(name) == {key: both for key, both in found.items() if both[0] != both[1]}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_has_the_optimizer_steps_of_the_source_and_their_sequences(name):
    counts = on_its_hardware(name).settings.batch()
    assert (counts.updates, counts.effective) == (SETTINGS[name]["updates"], SETTINGS[name]["sequences"])


def test_the_rows_of_the_page_are_of_recipes():
    assert {name for row in table_rows() for name in row[0].split(", ")} == set(SETTINGS)
    assert all(len(row) == 5 for row in table_rows())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_data_is_held_out_against_the_evaluations_of_the_recipe(name):
    """Preflight refuses a run whose data was never searched for what it is evaluated on, once the data is built."""
    posttrain = on_its_hardware(name).posttrain
    sources = posttrain.mix.sources
    held_out = [
        (sources[key].get("from", key), sources[key].get("split")) for key in posttrain.mix.decontaminate.against
    ]
    for evaluation in posttrain.evals:
        source = yaml.safe_load((paths.conf_dir() / "eval" / f"{evaluation}.yaml").read_text("utf-8"))["source"]
        assert (source["from"], source.get("split")) in held_out, evaluation


@pytest.mark.parametrize("name", SETTINGS)
def test_the_header_names_hardware_and_evaluations(name):
    header = [line for line in (paths.recipes_dir() / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    run, needs = (next(line for line in header if line.startswith(word)) for word in ("# Run:", "# Needs:"))
    assert run.endswith(f"recipe={name} hardware={SETTINGS[name]['hardware']}")
    assert "GPU" in needs and "measured" in needs
    assert on_its_hardware(name).posttrain.evals


@pytest.mark.parametrize("name", ["math_sft", "math_sft_lora", "code_sft"])
def test_the_header_of_a_stage_says_how_many_steps_its_data_makes(name):
    composed = on_its_hardware(name)
    rows, verl = composed.posttrain.mix.splits.sft_train.rows, composed.verl
    steps = rows // verl.data.train_batch_size * verl.trainer.total_epochs
    assert f"a stage of {steps} steps" in (paths.recipes_dir() / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_header_says_the_disk_that_is_planned(name, tmp_path):
    header = (paths.recipes_dir() / f"{name}.yaml").read_text().splitlines()
    needs = next(line for line in header if line.startswith("# Needs:"))
    composed = on_its_hardware(name, f"posttrain.data_dir={tmp_path}")
    assert f", {capacity.format_bytes(capacity.count_needed_bytes(composed))} of disk" in needs


@pytest.mark.parametrize("name", SETTINGS)
def test_the_recipe_can_launch_on_a_cpu(name, tmp_path):
    composed = compose([f"recipe={name}", "hardware=cpu", f"posttrain.data_dir={tmp_path}"])
    found = [problem.what for problem in blocking(preflight.run_checks(composed).problems)]
    not_of_a_mix = [f"{file} is missing" for file in data.list_data_files(composed) if file.parent != composed.data_dir]
    assert found == not_of_a_mix, "a mix is built by the launch, and pairs are not"
