"""Every branch that a GPU takes and a CPU can take: packed rows, token budgets, FSDP2 over ranks with offload, hybrid shards,
sequences split over ranks."""

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SFT_PACKED = ("model.use_remove_padding=true", "model.override_config.attn_implementation=varlen", "data.use_dynamic_bsz=true",
              "data.max_token_len_per_gpu=256", "model.enable_gradient_checkpointing=true", "trainer.save_freq=-1")  # fmt: skip
MODEL, ACTOR, ROLLOUT, REF = (f"actor_rollout_ref.{part}" for part in ("model", "actor", "rollout", "ref"))
RL_PACKED = (
    f"{MODEL}.use_remove_padding=true", f"{MODEL}.override_config.attn_implementation=varlen",
    f"{MODEL}.enable_gradient_checkpointing=true", "critic.model.use_remove_padding=true",
    "critic.model.enable_gradient_checkpointing=true",
    f"{ACTOR}.use_dynamic_bsz=true", f"{ACTOR}.ppo_max_token_len_per_gpu=256",
    f"{ROLLOUT}.log_prob_use_dynamic_bsz=true", f"{ROLLOUT}.log_prob_max_token_len_per_gpu=256",
    f"{REF}.log_prob_use_dynamic_bsz=true", f"{REF}.log_prob_max_token_len_per_gpu=256",
    "critic.use_dynamic_bsz=true", "critic.ppo_max_token_len_per_gpu=256",
    f"{ACTOR}.fsdp_config.param_offload=true", f"{ACTOR}.fsdp_config.optimizer_offload=true",
    f"{REF}.fsdp_config.param_offload=true", "critic.fsdp.param_offload=true", "critic.fsdp.optimizer_offload=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def padded_losses(launch):
    """The losses of two SFT steps on one rank, padded rows through sdpa: what every other way must give."""
    run = launch("math_sft", "trainer.save_freq=-1")
    run.assert_done([1, 2])
    return [run.metrics[step]["train/loss"] for step in (1, 2)]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("trainer.n_gpus_per_node=2", "engine.ulysses_sequence_parallel_size=2"), id="a sequence on two ranks"),
        pytest.param(("trainer.n_gpus_per_node=4", "engine.fsdp_size=2", "engine.param_offload=true",
                      "engine.optimizer_offload=true"), id="hybrid shards 2x2, offloaded"),
        pytest.param(("trainer.n_gpus_per_node=4", "engine.offload_policy=true"), id="four ranks, FSDP2's offload policy"),
    ],
)  # fmt: skip
def test_packed_rows_over_ranks_train_as_padded_rows_on_one(launch, padded_losses, words):
    run = launch("math_sft", *SFT_PACKED, *words)
    run.assert_done([1, 2])
    assert [run.metrics[step]["train/loss"] for step in (1, 2)] == pytest.approx(padded_losses, rel=1e-3)


def test_ppo_with_packed_rows_split_over_ranks_and_offloaded(launch):
    run = launch("math_ppo", *RL_PACKED, "trainer.n_gpus_per_node=2", f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=2",
                 "trainer.save_freq=-1")  # fmt: skip
    run.assert_done([1, 2])
    run.assert_rollouts_follow()
    assert all(metrics["critic/grad_norm"] > 0 for metrics in run.metrics.values())
    assert not run.segments, "two engines for two steps"
