"""The hardware sets what the user did not, says why, and finds out where it runs."""

import functools
import subprocess

import pynvml
import pytest

from posttrain_verl import compose as composing
from posttrain_verl import hardware
from posttrain_verl.hardware import Machine


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
    assert changed(compose(["recipe=math_ppo", "hardware=cpu"]))["critic.strategy"] == "fsdp2"


def test_auto_uses_the_devices_that_torch_sees(monkeypatch):
    monkeypatch.setattr(hardware, "detect", lambda: Machine("8xh100", 4, "torch sees 4 devices"))
    composed = composing.compose(["recipe=math_sft", "base_model=tiny"])
    assert composed.posttrain.hardware.name == "8xh100"
    assert composed.verl.trainer.n_gpus_per_node == 4


def test_no_driver_is_a_cpu(monkeypatch):
    def fail() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert hardware.detect() == Machine("cpu", 0, "no NVIDIA driver")


@pytest.mark.parametrize(("torch_says", "name"), [("0", "cpu"), ("1", "1x80gb"), ("8", "8xh100")])
def test_with_a_driver_torch_decides(monkeypatch, torch_says, name):
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 8)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    answer = subprocess.CompletedProcess([], 0, stdout=f"a warning\n{torch_says}\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    machine = hardware.detect()
    assert (machine.name, machine.devices) == (name, int(torch_says))
