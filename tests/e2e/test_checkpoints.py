"""Checkpoints of real runs: how many stay across a resume, the disk that was planned for them, and exports of shards alone."""

import pytest
from transformers import AutoModelForCausalLM

from posttrain_verl.compose import compose
from posttrain_verl.export.weights import ensure_weights
from posttrain_verl.preflight import capacity

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
STEPS = ("trainer.total_training_steps=3", "trainer.save_freq=1")


def left(run) -> list[str]:
    return sorted(path.name for path in run.folder.checkpoints.glob("global_step_*"))


def planned(run) -> list[capacity.CheckpointPart]:
    """The parts of a checkpoint as `check` counts them for the same words."""
    return capacity.list_checkpoint_parts(compose(run.folder.read_plan()["overrides"]))


def written(folder, kind: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(f"{kind}_world_size_*.pt"))


def test_sft_of_two_ranks(launch, go_on):
    two = ("trainer.n_gpus_per_node=2", "data.micro_batch_size_per_gpu=4")
    first = launch("math_sft", "base_model=nano_2m", *two, *STEPS)
    first.assert_done([1, 2, 3])
    assert left(first) == ["global_step_2", "global_step_3"]
    (part,) = planned(first)
    newest = first.folder.checkpoints / "global_step_3"
    assert written(newest, "model") == pytest.approx(part.weights, rel=0.03)
    assert written(newest, "optim") == pytest.approx(part.optimizer, rel=0.03)
    everything = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    assert everything == pytest.approx(part.bytes, rel=0.03)

    resumed = go_on(first, "trainer.total_training_steps=4")
    resumed.assert_done([1, 2, 3, 4])
    assert left(resumed) == ["global_step_3", "global_step_4"], "those of the first attempt count"

    folder = ensure_weights(resumed.folder)
    assert folder == resumed.folder.path / "weights-4"
    AutoModelForCausalLM.from_pretrained(folder)


def test_ppo_keeps_actor_and_critic(launch, go_on):
    first = launch("math_ppo", "base_model=nano_2m", "data.train_batch_size=8", "actor_rollout_ref.rollout.n=1",
                   "actor_rollout_ref.actor.ppo_mini_batch_size=8", *STEPS)  # fmt: skip
    first.assert_done([1, 2, 3])
    assert left(first) == ["global_step_2", "global_step_3"], "VeRL leaves the folder of a checkpoint that it prunes"
    for part in planned(first):
        folder = first.folder.checkpoints / "global_step_3" / part.name
        assert written(folder, "model") == pytest.approx(part.weights, rel=0.03), part.name
        assert written(folder, "optim") == pytest.approx(part.optimizer, rel=0.03), part.name

    resumed = go_on(first, "trainer.total_training_steps=4")
    resumed.assert_done([1, 2, 3, 4])
    assert left(resumed) == ["global_step_3", "global_step_4"]
    assert sorted(path.name for path in (resumed.folder.checkpoints / "global_step_4").iterdir()) == [
        "actor", "critic", "data.pt"]  # fmt: skip
    AutoModelForCausalLM.from_pretrained(ensure_weights(resumed.folder))


def test_only_the_adapter_of_a_lora_run(launch, go_on):
    first = launch("math_sft_lora", "base_model=nano_2m", "+checkpoint.save_lora_only=true", *STEPS)
    first.assert_done([1, 2, 3])
    (part,) = planned(first)
    newest = first.folder.checkpoints / "global_step_3"
    assert written(newest, "model") == pytest.approx(part.weights, rel=0.1), "small tensors, so that their names count"
    resumed = go_on(first, "trainer.total_training_steps=4")
    resumed.assert_done([1, 2, 3, 4])
    AutoModelForCausalLM.from_pretrained(ensure_weights(resumed.folder))
