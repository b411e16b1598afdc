"""Every pipeline of conf/pipeline is read, and its launches compose; wrong words are named."""

import pytest

from posttrain_verl import paths
from posttrain_verl.compose import compose
from posttrain_verl.evaluation import questions
from posttrain_verl.pipelines import spec as specs
from posttrain_verl.pipelines.plateau import Plateau
from posttrain_verl.problem import InputError

NAMES = sorted(file.stem for file in (paths.conf_dir() / "pipeline").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_is_sound(name):
    found = specs.read([f"recipe={name}"])
    assert compose([f"recipe={found.sft}", "hardware=cpu"]).stage == "sft"
    assert compose([f"recipe={found.rl}", "hardware=cpu"]).stage == "rl"
    assert set(found.evals) <= {*questions.names(), specs.TEST}
    assert found.evals


def test_words_go_to_their_stages():
    found = specs.read(
        ["recipe=demo", "seed=2", "base_model=tiny", "sft:optim.lr=1", "rl:data.seed=4", "evaluate:rows=9"]
    )
    assert (found.id, found.seed) == ("seed2", 2)
    assert found.words == {"all": ["base_model=tiny"], "sft": ["optim.lr=1"], "rl": ["data.seed=4"],
                           "evaluate": ["max_tokens=64", "rows=9"]}  # fmt: skip
    assert "posttrain.data_dir=data/seed2" in specs.seeded(found, "sft", "data")
    assert "actor_rollout_ref.rollout.seed=2" in specs.seeded(found, "rl", "data")


def test_settings_are_replaced():
    assert specs.read(["recipe=math"]).require_inspected
    assert not specs.read(["recipe=math", "require_inspected=false"]).require_inspected


def test_the_rule_that_ends_sft_is_given_or_changed_by_words():
    assert specs.read(["recipe=demo"]).plateau is None
    assert specs.read(["recipe=demo", "plateau.patience=1"]).plateau == Plateau(patience=1)
    assert specs.read(["recipe=math", "plateau.min_gain=0.2"]).plateau == Plateau("val/loss", 2, 0.2)


@pytest.mark.parametrize(
    ("words", "named"),
    [([], "no pipeline is named"), (["recipe=maths"], "recipe=maths is no pipeline"), (["recipe=demo", "fast"], "'fast' is no"),
     (["recipe=demo", "seed=x"], "seed=x is no whole number"), (["recipe=demo", "plateau.patience=0"], "patience=0 must be 1"),
     (["recipe=demo", "plateau.patience=often"], "'often'")],
)  # fmt: skip
def test_wrong_words_are_named(words, named):
    with pytest.raises(InputError, match=named):
        specs.read(words)
