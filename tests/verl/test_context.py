"""The rollout engine's longest sequence, in every composition."""

import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.compose import compose
from posttrain_verl.plan import summary
from posttrain_verl.verl.stage import stage_named

KEY = "actor_rollout_ref.rollout.max_model_len"
RECIPES = sorted(paths.recipes_dir().glob("*.yaml"))
RL = [path.stem for path in RECIPES if "rl@" in path.read_text() or "/rl" in path.read_text()]


@pytest.mark.parametrize("recipe", RL)
@pytest.mark.parametrize("hardware", ["cpu", "1x80gb", "8xh100"])
def test_is_the_longest_prompt_and_response(recipe, hardware):
    one = compose([f"recipe={recipe}", f"hardware={hardware}"])
    rollout = one.verl.actor_rollout_ref.rollout
    assert rollout.max_model_len == one.verl.data.max_prompt_length + one.verl.data.max_response_length


def test_there_are_recipes_to_ask():
    assert len(RL) >= 10


@pytest.mark.parametrize(("word", "expected"), [("4096", 4096), ("null", None)])
def test_the_users_own_stays(word, expected):
    assert OmegaConf.select(compose(["recipe=math_grpo", "hardware=8xh100", f"{KEY}={word}"]).verl, KEY) == expected


def test_turns_of_a_simulated_user_come_after_the_last_look_at_the_length():
    word = "actor_rollout_ref.rollout.multi_turn.interaction_config_path=user.yaml"
    one = compose(["recipe=math_grpo", "hardware=8xh100", word])
    assert OmegaConf.select(one.verl, KEY) == one.verl.data.max_prompt_length + 2 * one.verl.data.max_response_length


def test_a_prompt_length_that_is_no_number_is_left_to_preflight():
    one = compose(["recipe=math_grpo", "hardware=8xh100", "data.max_prompt_length=long"])
    assert OmegaConf.select(one.verl, KEY) is None


@pytest.mark.parametrize(
    ("model", "hardware", "recipe", "whole_context_gb"),
    # What vLLM asked for with a whole context: 131,072 tokens of Llama, 40,960 of Qwen3 (layers x 2 x key heads x dim x 2).
    [
        ("llama3_1_8b_instruct", "1x80gb", "math_grpo_lora", 16.0),
        ("llama3_2_3b_instruct", "1x80gb", "math_grpo_lora", 14.0),
        ("qwen3_4b", "1x24gb", "math_grpo_lora", 5.6),
    ],
)
def test_the_cache_holds_one_longest_sequence(model, hardware, recipe, whole_context_gb):
    words = [f"recipe={recipe}", f"base_model={model}", f"hardware={hardware}"]
    bounded = summary.plan_memory(compose(words))
    assert bounded.kv_sequences >= 1
    rollout = summary.plan_memory(compose([*words, f"{KEY}=null"])).job.rollout
    assert rollout.shape.kv_bytes(1) * rollout.sequence / 2**30 == pytest.approx(whole_context_gb, rel=0.01)


@pytest.mark.parametrize(("stored", "expected"), [(80, 432), (500, 500), (None, None)])
def test_a_resume_with_other_lengths(stored, expected):
    """The key follows if it was the longest sequence; the user's own stays."""
    lengths = {"max_prompt_length": 48, "max_response_length": 32}
    before = OmegaConf.create({"data": lengths, "actor_rollout_ref": {"rollout": {"max_model_len": stored}}})
    config = OmegaConf.merge(before, {"data": {"max_prompt_length": 32, "max_response_length": 400}})
    stage_named("rl").follow_changes(config, before)
    assert OmegaConf.select(config, KEY) == expected


def test_a_resume_that_names_the_length():
    before = OmegaConf.create({"data": {"max_prompt_length": 48, "max_response_length": 32},
                               "actor_rollout_ref": {"rollout": {"max_model_len": 80}}})  # fmt: skip
    config = OmegaConf.merge(before, {"actor_rollout_ref": {"rollout": {"max_model_len": 96}}})
    stage_named("rl").follow_changes(config, before)
    assert OmegaConf.select(config, KEY) == 96
