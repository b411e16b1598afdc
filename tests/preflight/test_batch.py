"""Batch arithmetic: what VeRL would assert on its workers is found before Ray starts."""

import functools
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from posttrain_verl.compose import compose
from posttrain_verl.preflight import training
from posttrain_verl.verl import stage
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.settings import Setting, SftModel

RL = ("recipe=math_ppo", "hardware=8xh100")
SFT = ("recipe=math_sft", "hardware=8xh100")


@functools.cache
def base(stage: str) -> Composed:
    return compose(list(RL if stage == "rl" else SFT))


def problems(stage: str, **changes: object) -> list[str]:
    """Problems of the composed recipe with some of VeRL's keys changed; `__` stands for a dot."""
    config = base(stage).verl.copy()
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    return [problem.what for problem in training.check_batch(replace(base(stage), verl=config))]


@pytest.mark.parametrize("stage", ["rl", "sft"])
def test_a_sound_launch(stage):
    assert problems(stage) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__train_batch_size": 32}, "ppo_mini_batch_size=64 prompts is more than data.train_batch_size=32"),
        ({"data__train_batch_size": 100}, "data.train_batch_size=100 does not divide by 64 prompts a mini batch"),
        ({"actor_rollout_ref__actor__ppo_mini_batch_size": 4}, "= 4 sequences do not divide by 8 data-parallel"),
        ({"actor_rollout_ref__actor__ppo_micro_batch_size_per_gpu": 3}, "actor.ppo_micro_batch_size_per_gpu=3"),
        ({"actor_rollout_ref__actor__ppo_micro_batch_size_per_gpu": None}, "=None, and dynamic batches are off"),
        ({"actor_rollout_ref__ref__log_prob_micro_batch_size_per_gpu": 5}, "ref.log_prob_micro_batch_size_per_gpu=5"),
        ({"actor_rollout_ref__rollout__log_prob_micro_batch_size_per_gpu": 64}, "does not divide 32 sequences a GPU"),
        ({"critic__ppo_micro_batch_size_per_gpu": 7}, "critic.ppo_micro_batch_size_per_gpu=7 does not divide 8"),
        ({"actor_rollout_ref__actor__ulysses_sequence_parallel_size": 3}, "8 GPUs do not divide by ulysses"),
        ({"algorithm__adv_estimator": "grpo"}, "rollout.n=1: grpo compares the answers of a group"),
        ({"actor_rollout_ref__actor__use_dynamic_bsz": True, "data__max_prompt_length": 16000},
         "actor.ppo_max_token_len_per_gpu=16384 is less than one sequence"),
        ({"data__train_batch_size": "many"}, "data.train_batch_size=many is not a whole number above 0"),
        ({"actor_rollout_ref__rollout__n": 0}, "actor_rollout_ref.rollout.n=0 is not a whole number above 0"),
    ],
)  # fmt: skip
def test_rl(changes, message):
    assert any(message in what for what in problems("rl", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__train_batch_size": 100}, "data.train_batch_size=100 does not divide by 8 data-parallel GPUs"),
        ({"data__max_token_len_per_gpu": 100}, "data.max_token_len_per_gpu=100 is less than one sequence"),
        ({"data__use_dynamic_bsz": False, "data__micro_batch_size_per_gpu": 3}, "=3 does not divide 16 rows a GPU"),
        ({"trainer__nnodes": None}, "trainer.nnodes=None is not a whole number above 0"),
    ],
)
def test_sft(changes, message):
    assert any(message in what for what in problems("sft", **changes))


def test_the_suggested_value_is_sound():
    assert problems("rl", actor_rollout_ref__actor__ppo_micro_batch_size_per_gpu=2) == []


class PairSettings(stage.Settings):
    """A stage of its own: rows of two lengths, one model, and no rule beside those that every stage has."""

    length_names = ("longest_prompt", "longest_answer")
    longest_prompt = Setting[int]("data.longest_prompt")
    longest_answer = Setting[int]("data.longest_answer")

    @property
    def models(self):
        return [SftModel(self.tree)]


def pairs(**changes: object) -> PairSettings:
    config = base("sft").verl.copy()
    for key, value in ({"data__longest_prompt": 500, "data__longest_answer": 500} | changes).items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    return PairSettings(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"data__longest_prompt": "many"}, "data.longest_prompt=many is not a whole number above 0"),
        ({"data__train_batch_size": 100}, "data.train_batch_size=100 does not divide by 8 data-parallel GPUs"),
        ({"data__use_dynamic_bsz": True, "data__max_token_len_per_gpu": 100},
         "(data.longest_prompt + data.longest_answer=1000)"),
        ({"engine__ulysses_sequence_parallel_size": 3}, "8 GPUs do not divide by ulysses"),
    ],
)  # fmt: skip
def test_a_stage_that_names_its_lengths_has_the_rules(changes, message):
    found = [problem.what for problem in pairs(**changes).batch_problems()]
    assert any(message in what for what in found) if message else found == []


def test_a_stage_of_its_own_and_the_model():
    settings, facts = pairs(engine__fsdp_size=3), {"max_position_embeddings": 999, "num_attention_heads": 14}
    found = [problem.what for problem in settings.engine_problems(facts, OmegaConf.create())]
    assert found == ["engine.fsdp_size=3 does not divide 8 GPUs",
                     "data.longest_prompt + data.longest_answer=1000 is more than the model's context of 999 tokens"]  # fmt: skip


def test_a_checkpoint_at_the_end_of_an_epoch(tmp_path, monkeypatch):
    """VeRL's SFT trainer ends there without training; its RL trainer does not."""
    monkeypatch.setattr(training.data, "count_rows", lambda composed, key: 4 * composed.settings.train_batch_size)
    (tmp_path / "global_step_4").mkdir()
    said = {}
    for name in ("rl", "sft"):
        config = base(name).verl.copy()
        config.trainer.update(total_epochs=3, total_training_steps=12, resume_mode="resume_path",
                              resume_from_path=str(tmp_path / "global_step_4"))  # fmt: skip
        found = training.check_schedule(replace(base(name), verl=config))
        said[name] = [problem.what for problem in found if "loader exhausted" in problem.what]
    assert said["rl"] == [] and len(said["sft"]) == 1 and "VeRL's SFT trainer" in said["sft"][0]
