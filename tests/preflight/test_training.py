"""Settings that VeRL takes and that spoil a run, and what the planner sees to that they are not needed."""

import pytest

from posttrain_verl import paths
from posttrain_verl.compose import compose
from posttrain_verl.machine import devices
from posttrain_verl.machine.devices import Device, Machine, MachineFacts
from posttrain_verl.preflight import machine, model, rewards, services, training
from posttrain_verl.preflight import model as attention_check

ACTOR = "actor_rollout_ref.actor"
H100 = Device("NVIDIA H100 80GB HBM3", 79.6, (9, 0), nvlink=True)


def whats(problems) -> list[str]:
    return [f"{problem.level}: {problem.what} | {problem.remedy}" for problem in problems]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("recipe=math_grpo", "actor_rollout_ref.model.lora_rank=16"), f"{ACTOR}.checkpoint.save_contents"),
        (("recipe=math_sft", "model.lora_rank=16"), "checkpoint.save_contents"),
    ],
)
def test_lora_with_the_folder_of_verl_is_warned_of(words, key):
    one = compose([*words, "hardware=8xh100", f"{key}=[model,optimizer,extra,hf_model]"])
    warned = [what for what in whats(training.check_training(one)) if key in what]
    assert len(warned) == 1 and warned[0].startswith("warning")
    assert f"{key}=[model,optimizer,extra]" in warned[0], "the remedy keeps the other parts"
    remedied = compose([*words, "hardware=8xh100", f"{key}=[model,optimizer,extra]"])
    assert not [what for what in whats(training.check_training(remedied)) if "save_contents" in what]


@pytest.mark.parametrize("recipe", ["math_grpo", "math_sft", "math_grpo_lora", "math_sft_lora"])
@pytest.mark.parametrize("hardware", ["cpu", "1x80gb"])
def test_recipes_leave_it_out(recipe, hardware):
    """With 1x80gb the planner makes LoRA of the first two."""
    one = compose([f"recipe={recipe}", f"hardware={hardware}"])
    assert one.settings.model.save_contents == ["model", "optimizer", "extra"]
    assert not [what for what in whats(training.check_training(one)) if "save_contents" in what]


@pytest.fixture
def without_flash(monkeypatch):
    """A machine with GPUs where flash-attn was not compiled."""
    monkeypatch.setattr(attention_check, "find_spec", lambda package: None)
    monkeypatch.setattr(machine, "_has_driver", lambda: True)


MODEL_ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"
SPLIT = f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("recipe=math_sft", "model.override_config.attn_implementation=flash_attention_2"), ["model.override_config"]),
        (("recipe=math_ppo", f"{MODEL_ATTENTION}=flash_attention_2"), [MODEL_ATTENTION, "critic.model"]),
        (("recipe=math_ppo", f"{MODEL_ATTENTION}=sdpa"), []),
    ],
)
def test_flash_attention_that_is_not_there(monkeypatch, without_flash, words, said):
    one = compose([*words, "hardware=8xh100"])
    found = whats(attention_check.check_attention(one))
    assert len(found) == len(said)
    assert all(part in what and "pip install --no-build" in what for part, what in zip(said, found, strict=True))
    monkeypatch.setattr(attention_check, "find_spec", lambda package: package == "flash_attn")
    assert attention_check.check_attention(one) == []


@pytest.mark.parametrize("recipe", [path.stem for path in paths.recipes_dir().glob("*.yaml")])
@pytest.mark.parametrize("hardware", ["8xh100", "1x80gb", "cpu"])
def test_no_recipe_asks_for_what_the_set_up_does_not_install(without_flash, recipe, hardware):
    assert attention_check.check_attention(compose([f"recipe={recipe}", f"hardware={hardware}"])) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((f"{SPLIT}=2",), []),
        ((f"{SPLIT}=2", f"{MODEL_ATTENTION}=sdpa"), [f"{SPLIT}=2 splits", "critic.fsdp.ulysses"]),
        ((f"{ACTOR}.ulysses_sequence_parallel_size=2", f"{MODEL_ATTENTION}=sdpa"), [f"{SPLIT}=2 splits"]),
        (("critic.fsdp.ulysses_sequence_parallel_size=2", "critic.model.override_config.attn_implementation=eager"),
         ["critic.fsdp.ulysses"]),
    ],
)  # fmt: skip
def test_sequence_parallelism_needs_an_attention_that_exchanges_the_parts(words, said):
    found = whats(attention_check.check_attention(compose(["recipe=math_ppo", "hardware=8xh100", *words])))
    assert len(found) == len(said)
    assert all(part in what for part, what in zip(said, found, strict=True))


@pytest.mark.parametrize("name", ["flash_attention_3", "kernels-community/flash-attn2"])
def test_every_attention_that_is_called_as_flash_attn_exchanges_the_parts(name):
    assert (
        attention_check.check_attention(
            compose(["recipe=math_dapo", "hardware=16x8xh100", f"{MODEL_ATTENTION}={name}"])
        )
        == []
    )


def test_null_is_sdpa_which_does_not():
    found = whats(
        attention_check.check_attention(compose(["recipe=math_dapo", "hardware=16x8xh100", f"{MODEL_ATTENTION}=null"]))
    )
    assert len(found) == 1 and "does not exist in sdpa" in found[0]


def test_a_misspelt_attention():
    found = whats(
        attention_check.check_attention(
            compose(["recipe=math_sft", "model.override_config.attn_implementation=varlem"])
        )
    )
    assert len(found) == 1 and found[0].startswith("warning") and "varlen" in found[0].partition("|")[2]


def test_what_another_machine_must_have_hides_nothing(monkeypatch):
    monkeypatch.setattr(machine, "_has_driver", lambda: False)
    words = [f"{SPLIT}=2", f"{MODEL_ATTENTION}=sdpa", "critic.fsdp.ulysses_sequence_parallel_size=1",
             "critic.model.override_config.attn_implementation=flash_attention_2"]  # fmt: skip
    found = whats(attention_check.check_attention(compose(["recipe=math_ppo", "hardware=8xh100", *words])))
    assert len(found) == 1 and f"{SPLIT}=2 splits" in found[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"attn_logit_softcapping": 50.0}, "a soft cap"),
        ({"vision_config": {"depth": 2}}, "a vision tower"),
        ({"model_type": "gpt_oss"}, "attention sinks"),
        ({}, None),
    ],
)
def test_models_that_ask_for_more_than_the_kernel_does(monkeypatch, more, said):
    facts = model.read_model_config
    monkeypatch.setattr(model, "read_model_config", lambda composed: {**facts(composed), **more})
    for name, expected in (("varlen", said), ("eager", None)):
        words = ["recipe=math_sft", "hardware=8xh100", f"model.override_config.attn_implementation={name}"]
        found = whats(attention_check.check_attention(compose(words)))
        assert len(found) == bool(expected) and all(expected in what for what in found)


@pytest.mark.parametrize(("name", "said"), [("varlen", 1), ("sdpa", 0)])
def test_gpus_before_ampere_have_no_such_kernel(monkeypatch, name, said):
    volta = Device("Tesla V100", 31.7, (7, 0))
    monkeypatch.setattr(devices, "detect_machine", lambda: Machine("auto", "torch sees 1", MachineFacts((volta,), 1)))
    one = compose(["recipe=math_sft", "mix=embedded", f"model.override_config.attn_implementation={name}"])
    found = whats(attention_check.check_attention(one))
    assert len(found) == said and all("Ampere" in what for what in found)


def test_a_weight_that_shared_memory_does_not_hold():
    words = ["recipe=math_grpo", "hardware=cpu", "base_model=qwen2_5_0_5b_instruct"]
    assert training.check_engine(compose(words)) == [], "the planner makes room for the largest"
    bucket = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
    words = [*words, f"{bucket}=512"]
    found = whats(training.check_engine(compose(words)))
    assert len(found) == 1 and "does not hold the model's embedding of 520 MiB" in found[0]  # 151936 x 896 x 4 bytes
    remedy = f"{bucket}=520"
    assert remedy in found[0]
    assert training.check_engine(compose([*words, remedy])) == []
    assert training.check_engine(compose([*words, "actor_rollout_ref.model.lora_rank=8"])) == [], (
        "only the adapter is sent"
    )


@pytest.mark.parametrize(
    ("capability", "words", "said"),
    [
        ((7, 0), (), ["problem: actor_rollout_ref.rollout.dtype=bfloat16"]),
        ((7, 0), ("actor_rollout_ref.rollout.dtype=float16",), []),
        (
            (8, 0),
            ("actor_rollout_ref.rollout.quantization=fp8",),
            ["warning: actor_rollout_ref.rollout.quantization=fp8"],
        ),
        ((9, 0), ("actor_rollout_ref.rollout.quantization=fp8",), []),
    ],
)
def test_precisions_that_the_gpu_does_not_have(monkeypatch, capability, words, said):
    seen = MachineFacts(devices=(Device("some GPU", 79.6, capability),), torch=1, host_memory_gb=512)
    monkeypatch.setattr(devices, "detect_machine", lambda: Machine("auto", "torch sees 1 device", seen))
    found = whats(training.check_engine(compose(["recipe=math_grpo_lora", "base_model=qwen2_5_0_5b_instruct", *words])))
    assert len(found) == len(said) and all(what.startswith(part) for part, what in zip(said, found, strict=True))


def test_sequence_parallelism_that_splits_the_key_heads():
    words = ["recipe=math_sft", "hardware=8xh100", "base_model=qwen2_5_3b_instruct"]  # 16 heads, 2 key heads
    assert training.check_engine(compose([*words, "engine.ulysses_sequence_parallel_size=4"])) == []
    split = ["base_model=qwen2_5_0_5b_instruct", "engine.ulysses_sequence_parallel_size=7"]  # 14 heads, 2 key heads
    assert "2 key heads" in str(whats(training.check_engine(compose([*words, *split]))))


def test_a_run_writes_its_metrics():
    one = compose(["recipe=math_grpo", "hardware=cpu", "trainer.logger=[console]"])
    assert "trainer.logger=[console,file]" in str(whats(services.check_run_folder(one)))
    assert services.check_run_folder(compose(["recipe=math_grpo", "hardware=cpu"])) == []


def test_verls_own_rewards_are_warned_of(tmp_path):
    one = compose(["recipe=math_grpo", "hardware=cpu", "reward.custom_reward_function.path=null"])
    found = whats(rewards._check_function(one.settings.reward, None))
    assert len(found) == 1 and found[0].startswith("warning") and "300 characters" in found[0]
