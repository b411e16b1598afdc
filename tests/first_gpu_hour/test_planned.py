"""The figure that is held against torch's: the plan's peak at the tokens that were trained, without what torch does not count."""

import pytest

from posttrain_verl.compose import compose
from posttrain_verl.first_gpu_hour import allocation
from posttrain_verl.first_gpu_hour.modes import RUNS

MODEL = "qwen2_5_0_5b_instruct"


def composed(name: str, *words: str):
    return compose([*RUNS[name], f"base_model={MODEL}", "hardware=1x80gb", *words])


@pytest.mark.parametrize("name", RUNS)
def test_the_runs_of_the_hour_have_a_plan_on_a_gpu(name):
    few, many = (
        allocation.planned_peak(allocation.job_with_tokens(composed(name), tokens)) for tokens in (4_000, 400_000)
    )
    assert 1 < few < many < 80


def test_a_cpu_has_none():
    on_cpu = compose([*RUNS["SFT"], "base_model=tiny", "hardware=cpu"])
    assert allocation.planned_peak(allocation.job_with_tokens(on_cpu, 1000)) is None
    assert allocation.planned_peak(allocation.job_with_micro_batch(on_cpu, 1000)) is None


@pytest.mark.parametrize(
    ("tokens", "largest"),
    [
        (3_000, 3_000),  # less than a micro batch may hold
        (16_384, 16_384),
        (20_000, 10_000),  # two that are even, not one full and one small
        (100_000, 14_286),
    ],
)
def test_a_step_is_shared_evenly_among_few_micro_batches(tokens, largest):
    assert allocation.job_with_tokens(composed("SFT"), tokens).models[0].tokens == largest


def test_micro_batches_of_a_fixed_number_of_rows():
    fixed = composed("SFT", "data.use_dynamic_bsz=false", "data.micro_batch_size_per_gpu=4", "data.train_batch_size=64")
    assert allocation.job_with_tokens(fixed, 64 * 500).models[0].tokens == 4 * 500


def test_rl_trains_mini_batches_and_takes_log_probabilities_of_all():
    """64 prompts in two mini batches of 32; the budgets are above both."""
    job = allocation.job_with_tokens(composed("GRPO"), 10_000)
    assert (job.models[0].tokens, job.models[0].forward_tokens) == (5_000, 10_000)


def test_gpus_share_the_tokens_of_a_step():
    eight = compose([*RUNS["SFT"], f"base_model={MODEL}", "hardware=8xh100"])
    assert allocation.job_with_tokens(eight, 80_000).models[0].tokens == 10_000
