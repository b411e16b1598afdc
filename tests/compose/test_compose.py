"""compose: VeRL's tree at the root, ours under `posttrain`, the command line above everything."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from posttrain_verl import compose as composing
from posttrain_verl import paths
from posttrain_verl.compose import compose, verl_tree
from posttrain_verl.run.prepare import plan_facts
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verl.schema import generated_tree
from posttrain_verl.verl.stage import stage_named

CPU = ["hardware=cpu", "base_model=tiny", "mix=embedded"]


def test_ours_is_taken_away_and_its_values_stay():
    composed = compose(["recipe=math_grpo", *CPU, "posttrain.data_dir=/some/where"])
    assert "posttrain" not in composed.verl and "hydra" not in composed.verl
    assert composed.verl.data.train_files == "/some/where/embedded/rl_train.parquet"
    assert composed.verl.actor_rollout_ref.model.path == "tiny"
    assert composed.verl.critic.model.path == "tiny"
    assert "${posttrain" not in OmegaConf.to_yaml(composed.verl)


def test_verl_keys_are_overridden_under_their_own_names():
    words = ["actor_rollout_ref.actor.optim.lr=3e-6", "+reward.reward_kwargs.penalty=2", "trainer.logger=[console]"]
    verl = compose(["recipe=math_grpo", *CPU, *words]).verl
    assert verl.actor_rollout_ref.actor.optim.lr == 3e-6
    assert verl.reward.reward_kwargs.penalty == 2
    assert verl.trainer.logger == ["console"]


def test_sft_is_verls_sft_tree():
    composed = compose(["recipe=math_sft", *CPU])
    assert composed.stage.name == "sft"
    assert composed.verl.model.path == "tiny"
    assert composed.verl.optim.lr == 2e-5
    assert "actor_rollout_ref" not in composed.verl


def test_nothing_of_verls_tree_is_lost():
    composed = compose(["recipe=math_grpo", *CPU])
    ours = OmegaConf.to_container(composed.verl, resolve=False)
    assert set(verl_tree(stage_named("rl"), composed.choices)) <= set(ours)


def test_the_tree_verl_ships_is_the_tree_it_composes():
    """verl_keys reads the shipped file because it is fast; this holds that it is the same."""
    choices = compose(["recipe=math_grpo", *CPU]).choices
    shipped = generated_tree(choices)
    without_engine = {k: v for k, v in choices.items() if k != "data"}  # a choice unknown to it: composed by Hydra
    composed = verl_tree(stage_named("rl"), without_engine)
    assert composed.pop("model_engine") == "dp"
    assert OmegaConf.create(shipped) == OmegaConf.create(composed)


@pytest.mark.parametrize("engine", ["megatron", "veomni"])
def test_another_engine_of_verl(engine):
    composed = compose(["recipe=math_grpo", "hardware=8xh100", f"model_engine={engine}"])
    assert engine in composed.verl.actor_rollout_ref.actor
    assert engine in verl_tree(stage_named("rl"), composed.choices)["actor_rollout_ref"]["actor"]


def test_for_run_fills_the_paths_of_the_run(tmp_path):
    composed = compose(["recipe=math_grpo", *CPU])
    config = composed.for_run(tmp_path / "runs/math_grpo/one", model=tmp_path / "model")
    assert config.trainer.default_local_dir == str(tmp_path / "runs/math_grpo/one/checkpoints")
    assert config.trainer.experiment_name == "math_grpo/one"
    assert config.actor_rollout_ref.model.path == config.critic.model.path == str(tmp_path / "model")
    assert Path(config.data.train_files).is_absolute()
    assert composed.verl.actor_rollout_ref.model.path == "tiny", "the composed config is not changed"


def test_for_run_keeps_what_the_user_set(tmp_path):
    composed = compose(["recipe=math_sft", *CPU, "trainer.default_local_dir=/elsewhere", "data.val_files=null"])
    config = composed.for_run(tmp_path)
    assert config.trainer.default_local_dir == "/elsewhere"
    assert config.data.val_files is None


def test_lists_of_files_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    composed = compose(["recipe=math_sft", *CPU, "data.train_files=[a.parquet,s3://b/c.parquet]"])
    assert composed.for_run(tmp_path).data.train_files == [str(tmp_path / "a.parquet"), "s3://b/c.parquet"]


def test_run_dir_is_runs_recipe_id():
    composed = compose(["recipe=math_sft", *CPU, "posttrain.run_id=one", "posttrain.runs_dir=/r"])
    assert composed.run_dir() == Path("/r/math_sft/one")


def test_a_model_folder_is_a_base_model(tmp_path):
    folder = tmp_path / "it's a model"
    folder.mkdir()
    composed = compose(["recipe=math_sft", "hardware=cpu", f"base_model={folder}", "mix=embedded"])
    assert composed.model == str(folder)
    assert composed.posttrain.base_model.name == folder.name


def test_a_recipe_of_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.yaml").write_text("defaults: [/sft, _self_]\noptim: {lr: 7e-5}\n")
    monkeypatch.chdir(tmp_path)
    composed = compose(["recipe=mine", *CPU])
    assert composed.recipe == "mine"
    assert composed.verl.optim.lr == 7e-5


def test_an_unreadable_recipe_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/broken.yaml").write_text("defaults: [/sft\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"recipes/broken.yaml is not readable yaml"):
        compose(["recipe=broken"])


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ([], ["no recipe is named", "math_grpo"]),
        (["recipe=math_grpoo"], ["recipe=math_grpoo is unknown", "did you mean recipe=math_grpo?", "demo_sft"]),
        (["recipe=math_sft", "base_model=tyni", "mix=embeded", "hardware=8xh10"],
         ["base_model=tiny?", "mix=embedded?", "hardware=8xh100?", "3 problems"]),
        (["recipe=math_sft", "data.lr"], ["'data.lr' is not a key=value"]),
        (["recipe=math_sft", "optim.lr=1,2"], ["'optim.lr=1,2' names several values", "--multirun"]),
        (["recipe=math_sft", "model=3"], ["model=3", "its value is the name of an option"]),
        (["recipe=math_sft", "posttrain.hardware=3"], ["'posttrain.hardware=3' replaces a whole node"]),
        (["recipe=math_sft", "~posttrain.mix"], ["'~posttrain.mix' replaces a whole node"]),
        (["recipe=math_sft", "posttrain.data_dir=null", "posttrain.run_id=../x"],
         ["posttrain.data_dir=None is not a folder", "posttrain.run_id=../x is not a name", "2 problems"]),
        (["recipe=math_sft", "posttrain.run_id=.."], ["posttrain.run_id=.. is not a name"]),
        (["recipe=math_sft", "posttrain.run_id=''"], ["posttrain.run_id= is not a name"]),
        (["recipe=math_sft", f"posttrain.run_id={'x' * 101}"], ["is not a name"]),
        (["recipe=math_sft", "engine=none"], ["engine=none is unknown", "there are: automodel, fsdp"]),
        (["recipe=math_sft", "base_model=folder"], ["posttrain.base_model.path"]),
    ],
)  # fmt: skip
def test_bad_words_are_one_clear_message(words, messages):
    with pytest.raises(InputError) as error:
        compose(words)
    for message in messages:
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("defaults", "what", "remedy"),
    [
        ("/rl, override /mix: mth", "the defaults name mix mth", "did you mean override /mix: math?"),
        ("/rll", "the defaults name rll, which is not a file of conf/", "a recipe stands on /sft or /rl"),
        ("/rl, override /mx: math", "the defaults override mx, which they do not name before", "did you mean /mix?"),
        (
            "/rl, override /base_model: Org/Model-1B",
            "conf/base_model has no such file",
            "base_model=Org/Model-1B, or write",
        ),
    ],
)
def test_wrong_names_in_a_recipe_are_told_as_on_the_command_line(tmp_path, monkeypatch, defaults, what, remedy):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"defaults: [{defaults}, _self_]\n")
    with pytest.raises(InputError) as error:
        compose(["recipe=mine.yaml", "hardware=8xh100"])
    (problem,) = error.value.problems
    assert what in problem.what and remedy in problem.remedy and "path=" not in str(error.value)


def test_neither_verl_nor_torch_nor_ray_is_imported():
    code = (
        "import sys; from posttrain_verl.__main__ import main\n"
        "main(['check', 'recipe=math_grpo', 'hardware=cpu', '--cfg', 'job'])\n"
        "found = {name.partition('.')[0] for name in sys.modules} & {'torch', 'verl', 'ray', 'transformers', 'vllm'}\n"
        "sys.exit(f'imported: {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_verls_config_folder_is_found():
    assert (paths.verl_config_dir() / "ppo_trainer.yaml").is_file()


def test_a_stage_that_is_not_of_its_trunk_is_one_message():
    with pytest.raises(InputError, match=r"posttrain\.stage=rl belongs to its own trunk"):
        composed = compose(["recipe=math_sft", "base_model=tiny", "hardware=8xh100", "posttrain.stage=rl"])
        verl_tree(composed.stage, composed.choices)


def test_an_error_that_hydra_wraps_without_a_word_is_told(monkeypatch):
    def fail(*_: object) -> None:
        raise ConfigCompositionException from ValidationError("what was wrong")

    monkeypatch.setattr(composing, "_compose_tree", fail)
    with pytest.raises(InputError, match="what was wrong"):
        compose(["recipe=demo_sft"])


def test_a_recipe_on_another_recipe_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.yaml").write_text("defaults: [{/recipe: demo_grpo}, _self_]\n")
    with pytest.raises(InputError, match="the defaults of recipe mine include a recipe"):
        compose(["recipe=mine", "hardware=cpu"])


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("posttrain.reward.right_at=most", "posttrain.reward.right_at=most is not a number"),
        ("posttrain.reward.right_at=true", "posttrain.reward.right_at=True is not a number"),
        ("posttrain.reward=1", "posttrain.reward=1 is a value where posttrain_verl has keys"),
    ],
)
def test_the_score_that_is_right_is_a_number(word, problem):
    with pytest.raises(InputError) as caught:
        compose(["recipe=demo_grpo", *CPU, word])
    assert [each.what for each in caught.value.problems] == [problem]


def test_the_plan_of_a_run_holds_the_score_that_is_right():
    composed = compose(["recipe=demo_grpo", *CPU, "posttrain.reward.right_at=0.5"])
    facts = plan_facts(composed, None)
    assert facts["posttrain"]["reward"]["right_at"] == 0.5 and str(facts["devices"]).startswith("CPU (")
