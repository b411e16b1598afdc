"""A key that VeRL would ignore is an error, wherever it came from."""

import functools

import pytest

from posttrain_verl.compose import compose, verl_tree
from posttrain_verl.preflight import config_form
from posttrain_verl.verl.other_names import MEANT, all_paths, key_meant
from posttrain_verl.verl.schema import dataclass_fields, is_free_form

CPU = ("hardware=cpu", "base_model=tiny", "mix=embedded")


def found(recipe: str, *words: str) -> dict[str, str]:
    """Problems by their first word, the key, with the remedy."""
    return {
        problem.what.split()[0]: problem.remedy for problem in config_form.check_keys(compose([recipe, *CPU, *words]))
    }


@functools.cache
def all_wrong() -> dict[str, str]:
    """One launch with many mistakes: they are all found at once."""
    return found(
        "recipe=math_grpo",
        "actor_rollout_ref.actor.optm.lr=1e-6",
        "actor_rollout_ref.actor.lr=1e-6",
        "data.train_batchsize=8",
        "+trainer.total_epoch=3",
        "++nonsense.deep.key=1",
        "custom_reward_function.path=my.py",
        "reward_model.reward_manager=dapo",
        "+reward_model.reward_kwargs.overlong_buffer_cfg.len=3",
        "reward_model.model.path=some/model",
        "reward_model.rollout.name=vllm",
        "sandbox_fusion.url=http://127.0.0.1",
        "data.my_kwargs.a=1",
        "posttrain.run_idd=3",
    )


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("actor_rollout_ref.actor.optm.lr", "did you mean actor_rollout_ref.actor.optim.lr?"),
        ("actor_rollout_ref.actor.lr", "did you mean actor_rollout_ref.actor.optim.lr?"),
        ("data.train_batchsize", "did you mean data.train_batch_size?"),
        ("trainer.total_epoch", "did you mean trainer.total_epochs?"),
        ("nonsense.deep.key", "remove it"),
        ("custom_reward_function.path", "use reward.custom_reward_function.path=my.py"),
        ("reward_model.reward_manager", "use reward.reward_manager.name=dapo"),
        ("reward_model.reward_kwargs.overlong_buffer_cfg.len", "use reward.reward_kwargs.overlong_buffer_cfg.len=3"),
        ("reward_model.model.path", "use reward.reward_model.model_path=some/model"),
        ("reward_model.rollout.name", "use reward.reward_model.rollout.name=vllm"),
        ("sandbox_fusion.url", "use reward.sandbox_fusion.url=http://127.0.0.1"),
        ("data.my_kwargs.a", None),
        ("posttrain.run_idd", None),
    ],
)
def test_ignored_key(key, remedy):
    assert key in all_wrong()
    assert remedy is None or all_wrong()[key] == remedy


def test_nothing_else_is_reported():
    assert len(all_wrong()) == 13


def test_free_form_nodes_and_unlisted_keys_are_live():
    live = (
        "+actor_rollout_ref.rollout.engine_kwargs.vllm.swap_space=4",
        "+actor_rollout_ref.model.override_config.anything=1",
        "+actor_rollout_ref.actor.optim.override_optimizer_config.fused=true",
        "+reward.reward_kwargs.penalty=1",
        "+reward.custom_reward_function.reward_kwargs.penalty=1",
        "+trainer.v1.sampler.sampler_kwargs.a=1",
        "+data.apply_chat_template_kwargs.enable_thinking=false",
        "+data.cache_dir=/tmp/x",
        "+ray_kwargs.ray_init.address=auto",
        "+actor_rollout_ref.rollout.enable_sleep_mode=false",
        "+actor_rollout_ref.rollout.agent.agent_loop_manager_class=a.B",
        "+algorithm.filter_groups.metric=acc",
        "actor_rollout_ref.rollout.quantization=fp8",
    )
    assert found("recipe=math_grpo", *live) == {}


def test_sft_is_compared_with_verls_sft_tree():
    wrong = found(
        "recipe=math_sft", "optim.warmup=3", "data.max_prompt_length=5", "+engine.no_such_field=1", "data.x=1"
    )
    assert set(wrong) == {"optim.warmup", "data.max_prompt_length", "engine.no_such_field", "data.x"}
    assert found("recipe=math_sft", "+model.override_config.a=1", "+optim.override_optimizer_config.b=2") == {}


def test_a_misspelt_key_of_a_recipe_is_found(tmp_path, monkeypatch):
    """Hydra refuses an unknown key only on the command line; in yaml it composes in silence."""
    (tmp_path / "recipes").mkdir()
    lines = "defaults: [/sft, _self_]", "optim: {lrate: 7e-5}", "posttrain: {size_for: cpu}"
    (tmp_path / "recipes/mine.yaml").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    assert found("recipe=mine") == {
        "optim.lrate": "did you mean optim.lr?",
        "posttrain.size_for": "did you mean posttrain.sized_for? docs/config.md lists them",
    }


def test_fields_of_dataclasses_are_read_without_importing_verl():
    assert dataclass_fields("verl.workers.config.RolloutConfig")["enable_sleep_mode"] == "bool"
    assert "ppo_epochs" in dataclass_fields("verl.workers.config.FSDPActorConfig"), "inherited from ActorConfig"
    assert dataclass_fields("verl.no.Such") == {}


def test_free_form():
    assert is_free_form("actor_rollout_ref.rollout.engine_kwargs.vllm")
    assert not is_free_form("actor_rollout_ref.rollout")


@pytest.mark.parametrize(
    ("recipe", "typed", "meant"),
    [
        ("math_grpo", "lr=1", "actor_rollout_ref.actor.optim.lr"),
        ("math_grpo", "optim.learning_rate=1", "actor_rollout_ref.actor.optim.lr"),
        ("math_grpo", "critic.optim.learning_rate=1", "critic.optim.lr"),
        ("math_grpo", "num_generations=8", "actor_rollout_ref.rollout.n"),
        ("math_grpo", "max_steps=8", "trainer.total_training_steps"),
        ("math_grpo", "data.max_completion_length=8", "data.max_response_length"),
        ("math_sft", "lr=1", "optim.lr"),
        ("math_sft", "optim.learning_rate=1", "optim.lr"),
        ("math_sft", "max_seq_length=8", "data.max_length"),
        ("math_sft", "num_train_epochs=8", "trainer.total_epochs"),
    ],
)
def test_keys_of_other_libraries_are_told_by_their_meaning(recipe, typed, meant):
    assert found(f"recipe={recipe}", typed)[typed.partition("=")[0]] == f"did you mean {meant}?"


def test_each_key_that_is_meant_is_one_of_verl():
    trees = [compose([f"recipe={recipe}", "hardware=8xh100"]) for recipe in ("math_grpo", "math_sft")]
    known = {path for each in trees for path in all_paths(verl_tree(each.stage, each.choices))}
    assert not [name for name in MEANT if not any(key_meant(name, each.settings, known) for each in trees)]


def test_our_own_keys_need_no_node(tmp_path):
    composed = compose(["recipe=math_sft", "hardware=8xh100", "run_id=first", f"runs_dir={tmp_path}"])
    assert composed.run_dir() == tmp_path / "math_sft" / "first"
    assert composed.overrides[2:] == ["posttrain.run_id=first", f"posttrain.runs_dir={tmp_path}"]
