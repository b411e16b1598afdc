"""What the planner changes on a machine that a recipe was not written for, and that it leaves the rest alone."""

import functools
import re

import pytest

from posttrain_verl import paths
from posttrain_verl.compose import compose
from posttrain_verl.plan import summary
from posttrain_verl.preflight import capacity, config_form, training
from posttrain_verl.verl.composed import Composed

RECIPES = sorted(path.stem for path in paths.recipes_dir().glob("*.yaml"))


@functools.cache
def composed(*words: str) -> Composed:
    return compose(list(words))


def changes(*words: str) -> dict[str, object]:
    return {change.key: change.new for change in composed(*words).changes}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_stays_as_it_is_on_its_own_machine(recipe):
    """With the words that its header gives, on eight H100 where it names no machine."""
    header = (paths.recipes_dir() / f"{recipe}.yaml").read_text(encoding="utf-8")
    if "sized_for: cpu" in header:
        pytest.skip("written for the CPU")
    words = re.search(r"posttrain_verl\.launch (.*)", header).group(1).split()
    launch = composed(*words, *([] if any(word.startswith("hardware=") for word in words) else ["hardware=8xh100"]))
    assert {change.key for change in launch.changes} <= {"trainer.n_gpus_per_node", "trainer.nnodes"}
    assert summary.plan_memory(launch).fits


def test_full_fine_tuning_of_7b_becomes_lora_on_one_gpu():
    words = ("recipe=math_grpo", "hardware=1x80gb")
    found = changes(*words)
    assert found["actor_rollout_ref.model.lora_rank"] == 32
    assert found["actor_rollout_ref.actor.optim.lr"] == pytest.approx(1e-5)
    assert found["actor_rollout_ref.rollout.load_format"] == "safetensors"
    assert found["actor_rollout_ref.rollout.tensor_model_parallel_size"] == 1
    assert summary.plan_memory(composed(*words)).fits
    assert all(change.why for change in composed(*words).changes)


def test_what_the_user_set_is_kept_and_the_rest_follows():
    words = ("recipe=math_grpo", "hardware=1x80gb", "actor_rollout_ref.model.lora_rank=64",
             "actor_rollout_ref.actor.optim.lr=2e-5", "actor_rollout_ref.rollout.gpu_memory_utilization=0.4")  # fmt: skip
    verl = composed(*words).verl.actor_rollout_ref
    assert (verl.model.lora_rank, verl.actor.optim.lr, verl.rollout.gpu_memory_utilization) == (64, 2e-5, 0.4)
    assert summary.plan_memory(composed(*words)).fits


def test_a_smaller_budget_comes_before_lora():
    words = ("recipe=math_ppo", "hardware=1x24gb")
    assert "actor_rollout_ref.model.lora_rank" not in changes(*words)
    assert summary.plan_memory(composed(*words)).fits


def test_frozen_weights_in_bf16_are_the_last_resort():
    words = ("recipe=math_sft_lora", "hardware=1x24gb")
    found = changes(*words)
    assert found["engine.model_dtype"] == "bf16"
    assert found["data.max_token_len_per_gpu"] >= composed(*words).verl.data.max_length
    assert summary.plan_memory(composed(*words)).fits


def test_what_cannot_fit_is_left_for_preflight_to_name():
    assert set(changes("recipe=math_grpo", "hardware=1x24gb")) == {"trainer.n_gpus_per_node"}


def test_a_larger_model_on_the_same_machine_is_planned():
    words = ("recipe=math_grpo", "hardware=8xh100", "base_model=qwen2_5_32b_instruct")
    assert summary.plan_memory(composed(*words)).fits
    assert changes(*words)


def test_more_nodes_need_no_more_disk():
    """Replicas of shards inside a node would each write a checkpoint of their own."""
    one, eight = (
        capacity.count_needed_bytes(composed("recipe=gsm8k_grpo", f"hardware={name}"))
        for name in ("8xh100", "8x8xh100")
    )
    assert eight == one


def test_the_cpu_is_not_planned():
    assert not [key for key in changes("recipe=math_sft", "hardware=cpu") if "lora" in key]


@pytest.mark.parametrize(
    ("recipe", "hardware"),
    [
        ("math_dapo", "1x80gb"),
        ("demo_grpo", "8xh200"),
        ("math_gspo", "1x24gb"),
        ("math_sft", "1x24gb"),
        ("math_ppo", "1x80gb"),
    ],
)
def test_a_planned_launch_has_sound_keys_and_batches(recipe, hardware):
    launch = composed(f"recipe={recipe}", f"hardware={hardware}")
    assert config_form.check_keys(launch) + training.check_batch(launch) == []
    assert summary.plan_memory(launch).fits


@pytest.mark.parametrize(
    ("recipe", "word"),
    [("math_grpo", "actor_rollout_ref.rollout.gpu_memory_utilization=much"),
     ("math_grpo", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=null"),
     ("math_grpo", "actor_rollout_ref.actor.fsdp_config=3"), ("math_grpo", "actor_rollout_ref.actor.optim.lr=high"),
     ("math_grpo", "actor_rollout_ref.model.lora_rank=[1]"), ("math_sft", "engine.fsdp_size=all"),
     ("math_sft", "engine.mixed_precision=bf16"), ("math_sft", "data.max_length=-1")],
)  # fmt: skip
def test_nonsense_is_left_to_the_checks_that_name_it(recipe, word):
    assert "lora" not in str([change.key for change in compose([f"recipe={recipe}", "hardware=1x80gb", word]).changes])


def test_what_is_planned_leaves_vllm_a_rest_of_the_device():
    """LoRA on one GPU fits the recipe's own share to the last GB, which no formula knows that well."""
    planned = summary.plan_memory(composed("recipe=math_grpo", "hardware=1x80gb"))
    assert planned.total("rollout") <= 0.97 * planned.job.memory
    (change,) = [one for one in composed("recipe=math_grpo", "hardware=1x80gb").changes if "gpu_memory" in one.key]
    assert "3 % stay free" in change.why
