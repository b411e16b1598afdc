"""Every recipe and every file of conf/ is loaded by a test that globs its folder."""

import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.compose import compose
from posttrain_verl.paths import OUR_GROUPS, names
from posttrain_verl.preflight import config_form, training
from posttrain_verl.terminal.problem import Problem, blocking
from posttrain_verl.verl.composed import Composed

RECIPES = sorted(path.stem for path in paths.recipes_dir().glob("*.yaml"))
GROUPS = [group for group in OUR_GROUPS if group != "recipe"]
OPTIONS = [(group, path) for group in GROUPS for path in sorted((paths.conf_dir() / group).glob("*.yaml"))]


def problems(composed: Composed) -> list[Problem]:
    return config_form.check_keys(composed) + training.check_batch(composed) + training.check_schedule(composed)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_short_and_its_header_says_how_to_run_it(name):
    text = (paths.recipes_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 20
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert f"python -m posttrain_verl.launch recipe={name}" in "\n".join(header)
    for word in ("# Run:", "# Aim:", "# Result:"):
        assert any(line.startswith(word) for line in header), f"no line {word}"


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_composes_on_the_cpu(name):
    composed = compose([f"recipe={name}", "hardware=cpu"])
    assert blocking(problems(composed)) == []
    assert composed.posttrain.mix.name in ("embedded", "embedded_code")
    assert composed.posttrain.base_model.embedded


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_composes_on_eight_gpus(name):
    composed = compose([f"recipe={name}", "hardware=8xh100"])
    if composed.posttrain.sized_for == "cpu":
        pytest.skip("sized for the CPU")
    assert problems(composed) == []
    assert composed.verl.trainer.n_gpus_per_node == 8


@pytest.mark.parametrize(("group", "path"), OPTIONS, ids=[f"{g}/{p.stem}" for g, p in OPTIONS])
def test_option_composes_at_its_place(group, path):
    words = [f"{group}={path.stem}"]
    if path.stem == "folder":
        words.append("posttrain.base_model.path=/some/model")
    others = [] if group == "hardware" else ["hardware=8xh100"]
    composed = compose(["recipe=math_sft", *others, *words])
    assert composed.posttrain[group].name
    assert composed.choices[group] == path.stem or path.stem == "auto"
    assert config_form.check_keys(composed) == []


@pytest.mark.parametrize("group", GROUPS)
def test_names_are_the_files(group):
    assert names(group) == sorted(path.stem for g, path in OPTIONS if g == group)


@pytest.mark.parametrize("path", [p for g, p in OPTIONS if g == "hardware"], ids=lambda path: path.stem)
def test_every_setting_of_a_hardware_file_says_why(path):
    facts = OmegaConf.load(path)
    parts = [facts.settings, facts.sizes]
    lists = [facts.choices, *(part[stage] for part in parts for stage in ("rl", "critic", "sft"))]
    for entry in (entry for entries in lists for entry in entries):
        assert entry.why and set(entry) <= {"key", "group", "value", "at_most", "of", "keep", "why"}


@pytest.mark.parametrize("path", [p for g, p in OPTIONS if g == "hardware"], ids=lambda path: path.stem)
def test_a_hardware_file_names_keys_that_verl_knows(path):
    if path.stem == "auto":
        pytest.skip("stands for another file")
    for recipe in ("math_ppo", "math_sft"):
        assert config_form.check_keys(compose([f"recipe={recipe}", f"hardware={path.stem}"])) == []
