"""The algorithms of the recipe library: what each changes in VeRL is seen to be live, two steps on the tiny model."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
REWARD = "reward.custom_reward_function.path"
NO_SAVE = "trainer.save_freq=-1"


def trained_rollouts(folder: Path, step: int) -> list[dict]:
    """The rollouts that VeRL trained on in a step, as it dumps them."""
    return [json.loads(line) for line in (folder / "rollouts" / f"{step}.jsonl").read_text().splitlines()]


def test_dapo_drops_groups_without_variance_and_fills_the_batch_with_others(launch):
    reward = Path(__file__).with_name("half_uniform_reward.py")
    run = launch("math_dapo", f"{REWARD}={reward}", "data.train_batch_size=8", NO_SAVE,
                 "algorithm.filter_groups.enable=true", "reward.reward_kwargs.overlong_buffer_cfg.len=8",
                 "reward.reward_kwargs.overlong_buffer_cfg.penalty_factor=1")  # fmt: skip
    run.assert_done([1, 2])
    run.assert_rollouts_follow()
    assert sum(metrics.get("training/filter_groups/evicted_samples", 0) for metrics in run.metrics.values()) >= 1
    for step in (1, 2):
        rows = trained_rollouts(run.folder.path, step)
        assert len(rows) == 8 * 4, "the batch is full"
        assert all(int(row["gts"]) % 2 for row in rows), "no group of equal rewards is trained on"
        assert min(row["score"] for row in rows) < 0, "a response at its longest is punished"


@pytest.mark.parametrize("recipe", ["math_drgrpo", "math_rloo"])
def test_advantages_are_not_divided_by_the_deviation_of_their_group(launch, recipe):
    run = launch(recipe, NO_SAVE)
    run.assert_done([1, 2])
    run.assert_rollouts_follow()
    for metrics in run.metrics.values():
        assert 0 < metrics["critic/advantages/max"] < 0.5, "GRPO's would reach 1: its groups have a deviation of 1"


def test_gspo_clips_whole_sequences(launch):
    run = launch("math_gspo", NO_SAVE, "actor_rollout_ref.actor.ppo_mini_batch_size=2",
                 "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0")  # fmt: skip
    run.assert_done([1, 2])
    run.assert_rollouts_follow()
    clipped = [metrics["actor/pg_clipfrac"] for metrics in run.metrics.values()]
    assert max(clipped) > 0.1, "after the first mini batch the ratios have left 1 by more than 0.0004"


def test_code_is_graded_by_running_it(launch):
    run = launch("code_grpo", "mix=embedded_code", f"{REWARD}=pkg://reward_fns", NO_SAVE)
    run.assert_done([1, 2])
    for metrics in run.metrics.values():
        assert {"reward/acc/mean", "reward/format/mean", "reward/answered/mean"} <= set(metrics)
        assert metrics["reward/verifier_error/mean"] == 0
    golds = [json.loads(row["gts"]) for row in trained_rollouts(run.folder.path, 1)]
    assert all(gold["test_list"] for gold in golds)


def test_sft_with_lora(launch):
    run = launch("math_sft_lora", "trainer.save_freq=2")
    run.assert_done([1, 2])
    assert OmegaConf.load(run.folder.config).model.lora_rank == 32
    assert all(metrics["train/grad_norm"] > 0 for metrics in run.metrics.values())
