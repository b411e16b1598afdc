"""The figure that the report holds against torch's: the plan's peak without what torch does not count."""

import pytest

from posttrain_verl import allocation
from posttrain_verl.first_gpu_hour import GPU_MODEL, RUNS


@pytest.mark.parametrize("name", RUNS)
def test_the_runs_of_the_hour_have_a_plan_on_a_gpu(name):
    words = [*RUNS[name], f"base_model={GPU_MODEL}", "hardware=1x80gb"]
    planned = allocation.planned(words)
    assert 1 < planned < 80


def test_a_cpu_has_none():
    assert allocation.planned([*RUNS["SFT"], "base_model=tiny", "hardware=cpu"]) is None
