"""Batch arithmetic in plain words, and the numbers behind them."""

import pytest
from omegaconf import OmegaConf

from posttrain_verl.compose import compose
from posttrain_verl.plan.summary import batch_in_words
from posttrain_verl.verl.rl import RlSettings


def rl(gpus: int, split: int = 1, **actor: object):
    return OmegaConf.create(
        {
            "trainer": {"nnodes": 1, "n_gpus_per_node": gpus},
            "data": {"train_batch_size": 64, "max_prompt_length": 512, "max_response_length": 512},
            "actor_rollout_ref": {
                "actor": {"ppo_mini_batch_size": 32, "ulysses_sequence_parallel_size": 1,
                          "fsdp_config": {"ulysses_sequence_parallel_size": split}, "use_dynamic_bsz": False,
                          "ppo_micro_batch_size_per_gpu": 8, "ppo_max_token_len_per_gpu": 16384, **actor},
                "rollout": {"n": 8},
            },
        }
    )  # fmt: skip


def test_the_numbers_of_fixed_micro_batches():
    counts = RlSettings(rl(gpus=4)).batch()
    assert (counts.sequences, counts.updates, counts.effective) == (512, 2, 256)
    assert (counts.held, counts.accumulation) == (8, 8)


def test_a_token_budget_holds_as_many_as_fit():
    counts = RlSettings(rl(gpus=4, use_dynamic_bsz=True)).batch()
    assert (counts.held, counts.accumulation) == (16, 4)


def test_groups_share_a_sequence():
    counts = RlSettings(rl(gpus=4, split=2, use_dynamic_bsz=True)).batch()
    assert (counts.ranks, counts.held, counts.accumulation) == (2, 32, 4)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["recipe=math_ppo", "hardware=8xh100"],
         "256 prompts x 1 rollout = 256 sequences a step; 4 optimizer steps of 64 prompts; "
         "8 GPUs hold 4 sequences each; accumulation 2"),
        (["recipe=math_sft", "hardware=8xh100"],
         "128 rows a step; 8 GPUs hold 16384 tokens each, 4 rows of full length; accumulation 4 at most"),
    ],
)  # fmt: skip
def test_plain_words(words, expected):
    assert batch_in_words(compose(words)) == expected
