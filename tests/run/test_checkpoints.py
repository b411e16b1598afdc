"""Which checkpoint a run goes on from: whole ones only, and none beyond the metrics."""

import pytest
import torch
from omegaconf import OmegaConf

from posttrain_verl.verl.checkpoints import choose_checkpoint
from posttrain_verl.verl.stage import stage_named

SFT = OmegaConf.create({"checkpoint": {"save_contents": ["model", "optimizer", "extra", "hf_model"]}})
RL = OmegaConf.create({
    "actor_rollout_ref": {"actor": {"checkpoint": {"save_contents": ["model", "optimizer", "extra"]}}},
    "critic": {"enable": None, "checkpoint": {"save_contents": ["model", "optimizer", "extra"]}},
    "algorithm": {"adv_estimator": "grpo"},
})  # fmt: skip


def cut(file):
    file.write_bytes(file.read_bytes()[:-30])


def test_the_newest_whole_one(tmp_path, sft):
    sft(tmp_path, 2)
    sft(tmp_path, 10)
    choice = choose_checkpoint(tmp_path, stage_named("sft"), SFT, 11)
    assert (choice.step, choice.path.name, choice.refused) == (10, "global_step_10", ())


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (
            lambda step: cut(step / "model_world_size_2_rank_1.pt"),
            "model_world_size_2_rank_1.pt is missing or cut short",
        ),
        (lambda step: (step / "optim_world_size_2_rank_0.pt").unlink(), "optim_world_size_2_rank_0.pt is missing"),
        (
            lambda step: (step / "extra_state_world_size_2_rank_1.pt").write_bytes(b""),
            "extra_state_world_size_2_rank_1",
        ),
        (lambda step: (step / "data_0.pt").unlink(), "data_0.pt is missing"),
    ],
)
def test_half_written_ones_are_passed_over(tmp_path, sft, damage, word):
    sft(tmp_path, 2, world=2)
    sft(tmp_path, 4, world=2)
    damage(tmp_path / "global_step_4")
    choice = choose_checkpoint(tmp_path, stage_named("sft"), SFT, 4)
    assert choice.step == 2
    assert word in choice.refused[0]


def test_a_checkpoint_beyond_the_metrics_would_leave_a_gap(tmp_path, sft):
    sft(tmp_path, 2)
    sft(tmp_path, 4)
    choice = choose_checkpoint(tmp_path, stage_named("sft"), SFT, 3)
    assert choice.step == 2
    assert "the metrics end at step 3" in choice.refused[0]


def test_none_to_go_on_from(tmp_path, sft):
    assert choose_checkpoint(tmp_path / "missing", stage_named("sft"), SFT, 3).path is None
    sft(tmp_path, 2)
    assert choose_checkpoint(tmp_path, stage_named("sft"), SFT, None).path is None


def test_rl_needs_actor_data_and_with_gae_the_critic(tmp_path, save):
    step = tmp_path / "global_step_2"
    save(step / "actor")
    assert "data.pt" in choose_checkpoint(tmp_path, stage_named("rl"), RL, 2).refused[0]
    torch.save({}, step / "data.pt")
    assert choose_checkpoint(tmp_path, stage_named("rl"), RL, 2).path == step
    gae = OmegaConf.merge(RL, {"algorithm": {"adv_estimator": "gae"}})
    assert "critic is missing" in choose_checkpoint(tmp_path, stage_named("rl"), gae, 2).refused[0]
    save(step / "critic")
    assert choose_checkpoint(tmp_path, stage_named("rl"), gae, 2).path == step
