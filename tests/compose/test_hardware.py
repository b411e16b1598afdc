"""The hardware sets what the user did not, says why, and finds out where it runs."""

import functools

import pytest

from posttrain_verl import compose as composing
from posttrain_verl.machine import devices
from posttrain_verl.machine.devices import Device, Driver, Machine, MachineFacts, TorchBuild
from posttrain_verl.plan import adapt


@functools.cache
def _composed(words: tuple[str, ...]) -> composing.Composed:
    return composing.compose(list(words))


def compose(words: list[str]) -> composing.Composed:
    """Composed once in this file, since it takes most of a second; not to be changed."""
    return _composed(tuple(words))


def changed(composed) -> dict[str, object]:
    return {change.key: change.new for change in composed.changes}


def test_cpu_replaces_model_and_mix_and_says_why():
    composed = compose(["recipe=math_grpo", "hardware=cpu"])
    assert changed(composed)["base_model"] == "smollm2_135m"
    assert changed(composed)["mix"] == "embedded"
    assert composed.model == "smollm2_135m"
    assert composed.choices["base_model"] == "smollm2_135m"
    assert all(change.why and change.old != change.new for change in composed.changes)


def test_options_that_the_cpu_carries_stay():
    composed = compose(["recipe=math_sft", "hardware=cpu", "base_model=tiny", "mix=embedded"])
    assert not {"base_model", "mix"} & set(changed(composed))


def test_a_named_option_stays_even_if_it_is_too_large():
    assert compose(["recipe=math_sft", "hardware=cpu", "base_model=qwen2_5_7b_instruct"]).model.endswith("7B-Instruct")


def test_settings_reach_verl():
    verl = compose(["recipe=math_grpo", "hardware=cpu"]).verl
    assert verl.actor_rollout_ref.model.override_config.attn_implementation == "sdpa"
    assert verl.actor_rollout_ref.rollout.enable_sleep_mode is False
    assert verl.actor_rollout_ref.actor.strategy == "fsdp2"
    assert verl.trainer.n_gpus_per_node == 1


@pytest.mark.parametrize(
    "word",
    ["data.train_batch_size=24", "engine.strategy=fsdp", "+trainer.n_gpus_per_node=2",
     "model.override_config.attn_implementation=eager"],
)  # fmt: skip
def test_what_the_user_sets_is_never_touched(word):
    composed = compose(["recipe=math_sft", "hardware=cpu", word])
    assert word.lstrip("+").partition("=")[0] not in changed(composed)


def test_at_most_lowers_and_never_raises():
    composed = compose(["recipe=math_ppo", "hardware=cpu"])
    assert composed.verl.data.train_batch_size == 8
    assert composed.verl.actor_rollout_ref.rollout.n == 1


def test_a_recipe_sized_for_the_cpu_keeps_its_sizes():
    composed = compose(["recipe=demo_grpo", "hardware=cpu"])
    assert composed.posttrain.sized_for == "cpu"
    assert "data.train_batch_size" not in changed(composed)
    assert composed.verl.actor_rollout_ref.model.use_remove_padding is False


def test_the_critic_is_set_only_where_there_is_one():
    assert not any(key.startswith("critic.") for key in changed(compose(["recipe=math_grpo", "hardware=cpu"])))
    assert changed(compose(["recipe=math_ppo", "hardware=cpu"]))["critic.model.use_remove_padding"] is False


H100 = Device("NVIDIA H100 80GB HBM3", 79.6, (9, 0), nvlink=True)


def test_auto_is_the_machine_itself(monkeypatch):
    seen = MachineFacts(devices=(H100,) * 4, torch=4, host_memory_gb=512)
    monkeypatch.setattr(devices, "detect_machine", lambda: Machine("auto", "torch sees 4 devices", seen))
    composed = composing.compose(["recipe=math_sft", "base_model=tiny"])
    node = composed.posttrain.hardware
    assert (node.name, node.memory_gb, node.host_memory_gb, node.interconnect) == ("4x80gb", 79.6, 512, "NVLink")
    assert node.dtypes == ["bf16", "fp8"]
    assert composed.verl.trainer.n_gpus_per_node == 4
    assert composed.machine.facts is seen


def test_gpus_that_a_cuda_build_cannot_use_are_planned_for(monkeypatch):
    """Not the CPU in their place: `preflight.machine` refuses, and what the user then reads is the plan for the GPUs."""
    driver = Driver((H100,) * 8, "550.54.15", "", 8, 8)
    seen = MachineFacts(driver.devices, driver=driver, build=TorchBuild("2.11.0+cu130", "13.0"), host_memory_gb=512)
    monkeypatch.setattr(devices, "detect_machine", lambda: Machine("auto", "driver 550.54.15 is too old", seen))
    composed = composing.compose(["recipe=math_sft", "base_model=tiny"])
    assert (composed.posttrain.hardware.name, composed.verl.trainer.n_gpus_per_node) == ("8x80gb", 8)


def test_no_more_reward_workers_than_cores(monkeypatch):
    seen = MachineFacts((H100,), torch=1, usable=(H100,), host_memory_gb=512)
    monkeypatch.setattr(devices, "detect_machine", lambda: Machine("auto", "torch sees 1 devices", seen))
    monkeypatch.setattr(adapt.cores, "allotted_cores", lambda: 4)
    words = ["recipe=code_grpo", "base_model=tiny"]
    assert composing.compose(words).verl.reward.num_workers == 4
    assert composing.compose([*words, "reward.num_workers=6"]).verl.reward.num_workers == 6
    monkeypatch.setattr(adapt.cores, "allotted_cores", lambda: 64)
    assert composing.compose(words).verl.reward.num_workers == 8
