"""The nodes at the root of VeRL's tree, each null, a value or removed: a problem with a remedy, and never a traceback.

The nodes are those of the composed recipes, so a node that VeRL adds is tested, too.
"""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posttrain_verl import check, launch
from posttrain_verl.compose import compose, to_plain_dict
from posttrain_verl.preflight import run_checks
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError, blocking
from posttrain_verl.verbs import Check, Launch
from posttrain_verl.verl.settings import format_value

RECIPES = ("demo_sft", "demo_grpo")
ROOTS = [(recipe, root) for recipe in RECIPES
         for root, node in to_plain_dict(compose([f"recipe={recipe}", "hardware=cpu"]).verl).items()
         if isinstance(node, dict)]  # fmt: skip


def found(*words: str) -> str:
    """What is wrong, whether composing or a check says it; each problem has a remedy."""
    try:
        problems = blocking(run_checks(compose([*words, "hardware=cpu"])).problems)
    except InputError as error:
        problems = error.problems
    assert problems and all(problem.remedy for problem in problems[:1]), problems
    return " ".join(problem.what for problem in problems)


def test_the_roots_are_those_of_both_stages():
    roots = set(ROOTS)
    assert {("demo_sft", "optim"), ("demo_sft", "checkpoint"), ("demo_grpo", "actor_rollout_ref")} < roots
    assert len(roots) > 20


@pytest.mark.parametrize(("recipe", "root"), ROOTS)
def test_a_root_that_is_null_is_a_problem(recipe, root):
    assert root in found(f"recipe={recipe}", f"{root}=null")


@pytest.mark.parametrize(
    ("recipe", "root"), [("demo_sft", "optim"), ("demo_sft", "checkpoint"), ("demo_grpo", "trainer")]
)
def test_a_root_that_is_removed_is_a_problem(recipe, root):
    assert root in found(f"recipe={recipe}", f"~{root}")


@pytest.mark.parametrize("value", [None, 3, "none"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_whose_roots_hold_no_keys_is_told_of_each(recipe, value, tmp_path, monkeypatch):
    """On the command line some of the roots are groups of VeRL's config, and are refused before they compose."""
    monkeypatch.chdir(tmp_path)
    roots = [root for name, root in ROOTS if name == recipe]
    (tmp_path / "recipes").mkdir()
    trunk = "sft" if "sft" in recipe else "rl"
    text = OmegaConf.to_yaml({"defaults": [f"/{trunk}", "_self_"], **dict.fromkeys(roots, value)})
    Path("recipes/no_keys.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        compose(["recipe=no_keys", "hardware=cpu"])
    said = [problem.what for problem in refused.value.problems]
    assert said == [f"{root}={format_value(value)} is a value where VeRL has keys" for root in roots]
    assert all(problem.remedy for problem in refused.value.problems)


@pytest.mark.parametrize("verb", [(Check, check.run), (Launch, launch.run)])
@pytest.mark.parametrize("word", ["data=null", "trainer=null", "trainer=3", "posttrain=null", "posttrain.mix=null"])
def test_the_verbs_refuse_it_with_exit_code_2(verb, word, capsys):
    assert command_line.main(*verb, ["recipe=demo_grpo", "hardware=cpu", word]) == 2
    said = capsys.readouterr().err
    assert "1 problem" in said and "Traceback" not in said


@pytest.mark.parametrize("node", ["rollout", "ref", "model"])
def test_a_node_that_verl_reads_below_may_not_be_null(node):
    assert f"actor_rollout_ref.{node}=null is a value where VeRL has keys" in found(
        "recipe=demo_grpo", f"actor_rollout_ref.{node}=null"
    )


@pytest.mark.parametrize(
    ("written", "key"),
    [("5", "posttrain"), ("null", "posttrain"), ("{hardware: null}", "posttrain.hardware"),
     ("{watch: null}", "posttrain.watch"), ("{cluster: 3}", "posttrain.cluster"), ("{mix: null}", "posttrain.mix"),
     ("{base_model: a}", "posttrain.base_model"), ("{evals: 3}", "posttrain.evals"), ("{skip: 3}", "posttrain.skip")],
)  # fmt: skip
def test_our_own_nodes_hold_keys(written, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    defaults = "defaults: [/sft, override /base_model: nano_2m, override /mix: embedded, _self_]"
    (tmp_path / "recipes/bad.yaml").write_text(f"{defaults}\nposttrain: {written}\n")
    assert found("recipe=bad").startswith(f"{key}=")
