"""GRPO end to end: after every update vLLM samples from the weights that were trained."""

import pytest
from transformers import AutoModelForCausalLM

from posttrain_verl.export.weights import ensure_weights

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ROLLOUT = "actor_rollout_ref.rollout.dtype"


def test_grpo_saves_and_resumes(launch):
    first = launch("math_grpo")
    first.assert_done([1, 2])
    first.assert_rollouts_follow()
    assert not first.segments, "shared memory of the run is left"
    AutoModelForCausalLM.from_pretrained(ensure_weights(first.folder))

    checkpoint = first.folder.checkpoints / "global_step_2"
    resumed = launch("math_grpo", "trainer.total_training_steps=3", "trainer.save_freq=3",
                     "trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}")  # fmt: skip
    resumed.assert_done([3])
    resumed.assert_rollouts_follow()


@pytest.mark.parametrize(("model", "dtype"), [("tiny", "bfloat16"), ("tiny_untied", "float32")])
def test_rollouts_follow_the_weights(launch, model, dtype):
    run = launch("math_grpo", f"base_model={model}", f"{ROLLOUT}={dtype}", "trainer.save_freq=-1")
    run.assert_done([1, 2])
    run.assert_rollouts_follow()


def test_two_workers_two_replicas_and_a_reference_model(launch):
    run = launch("math_grpo", "base_model=tiny_untied", f"{ROLLOUT}=bfloat16", "trainer.n_gpus_per_node=2",
                 "actor_rollout_ref.actor.use_kl_loss=true")  # fmt: skip
    run.assert_done([1, 2])
    run.assert_rollouts_follow()
    assert run.metrics[1]["actor/kl_loss"] == pytest.approx(0, abs=1e-6), "the reference is the model it started from"
    assert run.metrics[2]["actor/kl_loss"] > 1e-4, "and stays so"
    shards = run.folder.checkpoints.glob("global_step_2/actor/model_world_size_2_rank_*.pt")
    assert len(list(shards)) == 2


def test_lora(launch):
    run = launch("math_grpo_lora", "trainer.total_training_steps=3", "trainer.save_freq=-1")
    run.assert_done([1, 2, 3])
    run.assert_rollouts_follow()
    assert run.metrics[3]["actor/kl_loss"] > 1e-4, "the adapter moved away from the base model"


def test_ppo_with_a_critic(launch):
    run = launch("math_ppo", "data.train_batch_size=8", "actor_rollout_ref.rollout.n=1",
                 "actor_rollout_ref.actor.ppo_mini_batch_size=8", "trainer.save_freq=-1")  # fmt: skip
    run.assert_done([1, 2])
    run.assert_rollouts_follow()
    assert all(metrics["critic/grad_norm"] > 0 for metrics in run.metrics.values())
