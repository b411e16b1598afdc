"""A launch that does not fit is refused with the numbers and a remedy; so are batches that teach nothing."""

from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from posttrain_verl.compose import compose
from posttrain_verl.machine.devices import Device, Machine, MachineFacts
from posttrain_verl.preflight import capacity, training
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.verl.composed import Composed

H100 = Device("NVIDIA H100 80GB HBM3", 79.6, (9, 0), nvlink=True)


@pytest.fixture(scope="module")
def grpo() -> Composed:
    return compose(["recipe=math_grpo", "hardware=8xh100"])


def changed(launch: Composed, **keys: object) -> Composed:
    config = launch.verl.copy()
    for key, value in keys.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    return replace(launch, verl=config)


def test_a_recipe_on_its_machine_fits(grpo):
    assert capacity.check_memory(grpo) == []


def test_a_misfit_names_phase_numbers_and_a_remedy(grpo):
    found = capacity.check_memory(changed(grpo, actor_rollout_ref__rollout__gpu_memory_utilization=0.9))
    assert [problem.level for problem in found] == ["problem"]
    assert "does not fit hardware=8xh100: rollout needs 8" in found[0].what
    assert "of 79.1 GB a GPU" in found[0].what
    assert "actor_rollout_ref.rollout.gpu_memory_utilization=0.7: rollout would need" in found[0].remedy
    assert "actor_rollout_ref.actor.fsdp_config.optimizer_offload=true" in found[0].remedy


def test_a_cache_without_room_is_named(grpo):
    found = capacity.check_memory(changed(grpo, actor_rollout_ref__rollout__gpu_memory_utilization=0.1))
    assert "holds no sequence of full length" in found[0].what


def test_a_full_batch_that_would_not_fit_is_a_warning(grpo):
    launch = changed(grpo, actor_rollout_ref__actor__use_dynamic_bsz=False,
                     actor_rollout_ref__actor__ppo_micro_batch_size_per_gpu=64,
                     actor_rollout_ref__rollout__log_prob_micro_batch_size_per_gpu=64)  # fmt: skip
    assert [problem.level for problem in capacity.check_memory(launch)] == ["warning"]


def test_what_no_setting_can_fit_says_how_much_is_missing():
    (problem,) = capacity.check_memory(compose(["recipe=math_grpo", "hardware=1x24gb"]))
    assert "step needs 144.6 of 23.5 GB a GPU" in problem.what
    assert "still means: sync needs 3" in problem.remedy


def test_an_unknown_shape_is_no_verdict(grpo):
    with pytest.raises(CannotTell, match="the shape of Some/Model is not known here"):
        capacity.check_memory(changed(grpo, actor_rollout_ref__model__path="Some/Model"))


def test_more_devices_than_torch_sees(grpo):
    machine = Machine("auto", "", MachineFacts(devices=(H100,) * 8, torch=1, visible="0"))
    found = capacity.check_memory(replace(grpo, machine=machine))
    assert [(p.level, p.what) for p in found] == [
        ("warning", "nvidia-smi lists 8, this process sees 1 (CUDA_VISIBLE_DEVICES=0)"),
        ("problem", "trainer.n_gpus_per_node=8, this process sees 1"),
    ]


def test_a_small_effective_batch(grpo):
    small = changed(grpo, data__train_batch_size=8, actor_rollout_ref__actor__ppo_mini_batch_size=8)
    (problem,) = training.check_effective_batch(small)
    assert problem.level == "problem"
    assert "the effective batch is 40 sequences" in problem.what
    assert "posttrain.small_batch=true" in problem.remedy
    meant = OmegaConf.merge(small.posttrain, {"small_batch": True})
    assert training.check_effective_batch(replace(small, posttrain=meant)) == []
    (with_lora,) = training.check_effective_batch(changed(small, actor_rollout_ref__model__lora_rank=32,
                                          actor_rollout_ref__actor__optim__lr=1e-5))  # fmt: skip
    assert with_lora.level == "warning"
