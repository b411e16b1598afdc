"""How many members of a sweep run at a time."""

import pytest

from posttrain_verl.clusters import ray
from posttrain_verl.sweep import runner
from posttrain_verl.terminal.problem import InputError

WORDS = [
    "recipe=math_sft,demo_sft",
    "base_model=tiny",
    "hardware=cpu",
    "optim.lr=1e-5,1e-4",
    "trainer.n_gpus_per_node=1",
]
ON_RAY = [*WORDS, "cluster=ray", "address=http://h:1"]


@pytest.mark.parametrize(
    ("words", "gpus", "expected"),
    [
        (WORDS, 8, 1),
        ([*WORDS, "posttrain.at_once=3"], 8, 3),
        ([*ON_RAY, "trainer.nnodes=2"], 8, 4),
        ([*ON_RAY, "trainer.nnodes=2,4"], 8, 4),
        ([*ON_RAY, "trainer.nnodes=interval(2,4)", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3"], 9, 4),
        ([*ON_RAY, "trainer.nnodes=4"], 2, 1),
    ],
)
def test_as_many_as_the_gpus_carry(words, gpus, expected, monkeypatch):
    monkeypatch.setattr(ray, "count_devices", lambda address: {"http://h:1": gpus}[address])
    assert runner.count_at_once(words) == expected


@pytest.mark.parametrize("given", ["0", "abc", "-1"])
def test_a_wrong_number_at_once_is_named(given):
    with pytest.raises(InputError, match=f"posttrain.at_once={given}"):
        runner.count_at_once([*WORDS, f"posttrain.at_once={given}"])
