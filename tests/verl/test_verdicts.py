"""What makes an answer right: the `acc` of a grade or a declared score, and never a reward alone."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posttrain_verl.verl.metrics import means_first, with_held_out
from posttrain_verl.verl.stage import stage_named
from posttrain_verl.verl.verdicts import Verdicts, read_verdicts

ACC, REWARD = "val-core/openai/gsm8k/acc/mean@1", "val-core/openai/gsm8k/reward/mean@1"


def test_the_acc_of_a_plain_number_is_a_reward():
    assert with_held_out({ACC: 0.1, "val-aux/other/score/mean@1": 1}) == {
        "held-out reward/openai/gsm8k/mean@1": 0.1,
        "val-aux/other/score/mean@1": 1,
    }
    assert with_held_out({REWARD: 0.1}) == {"held-out reward/openai/gsm8k/mean@1": 0.1}
    assert with_held_out({"reward/acc/mean": 0.1, "critic/score/mean": 0.1}) == {"critic/score/mean": 0.1}


def test_the_acc_of_a_grade_is_an_accuracy():
    graded = {"val-aux/openai/gsm8k/score/mean@1": 0.5}
    assert with_held_out({ACC: 0.1} | graded) == {"held-out accuracy/openai/gsm8k/mean@1": 0.1} | graded
    best = "val-core/openai/gsm8k/acc/best@8/mean"
    assert "held-out accuracy/openai/gsm8k/best@8/mean" in with_held_out({best: 0.1} | graded)
    parts = {"reward/acc/mean": 0.1, "reward/score/mean": 0.2}
    assert with_held_out(parts) == parts


@pytest.mark.parametrize("manager", ["naive", "dapo"])
def test_verl_still_calls_a_plain_number_acc_and_keeps_the_score_of_a_grade(manager):
    """Read, not imported: VeRL's manager takes `acc` where the result is no dict, else every key of it."""
    spec = find_spec("verl")
    file = Path(spec.submodule_search_locations[0], f"experimental/reward_loop/reward_manager/{manager}.py")
    [branch] = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "isinstance(result, dict)"
    ]
    assert "for key, value in result.items():\n    reward_extra_info[key] = value" in map(ast.unparse, branch.body)
    assert "reward_extra_info['acc'] = score" in map(ast.unparse, branch.orelse)


def test_means_come_before_the_best_of_several():
    keys = ["held-out accuracy/a/best@8/mean", "held-out accuracy/a/mean@8", "held-out accuracy/a/maj@8/mean"]
    assert means_first(keys)[0] == "held-out accuracy/a/mean@8"


def declares(right_at):
    """A plan.json with the score that is right."""
    return {"posttrain": {"reward": {"right_at": right_at}}}


def rl_reward(**function):
    node = {"custom_reward_function": {"path": "pkg://reward_fns"} | function, "reward_manager": {"name": "naive"}}
    return stage_named("rl").settings(OmegaConf.create({"reward": node})).reward


@pytest.mark.parametrize(
    ("plan", "reward", "right_at"),
    [
        ({}, rl_reward(), 1.0),  # of an older version
        (declares(None), rl_reward(), 1.0),
        (declares(2.5), rl_reward(path="mine.py"), 2.5),
        ({"posttrain": {"reward": {}}}, rl_reward(path="mine.py"), None),
        ({"posttrain": "cut"}, rl_reward(path=None), None),
        ({}, rl_reward(reward_kwargs={"shaping": {"repetition": {"weight": 1.0}}}), None),
        (declares(1), None, 1),
    ],
)
def test_the_score_that_is_right_comes_from_the_plan_or_from_our_rewards(plan, reward, right_at):
    assert read_verdicts(plan, reward, []) == Verdicts(False, right_at)


@pytest.mark.parametrize(
    ("buffer", "function", "right"),
    [
        ({"enable": False}, {}, [None, False, True]),
        ({"enable": True, "penalty_factor": 1.0}, {}, [False, True, True]),
        ({"enable": True, "penalty_factor": 2.0}, {}, [None, None, None]),
        ({"enable": True}, {"reward_kwargs": {"partial": True}}, [None, None, None]),
    ],
)
def test_a_penalty_for_long_answers_takes_from_right_and_wrong_ones(buffer, function, right):
    node = {"custom_reward_function": {"path": "pkg://reward_fns"} | function, "reward_manager": {"name": "dapo"},
            "reward_kwargs": {"overlong_buffer_cfg": buffer}}  # fmt: skip
    reward = stage_named("rl").settings(OmegaConf.create({"reward": node})).reward
    verdicts = read_verdicts({}, reward, [])
    found = [verdicts.is_right({"score": score}) for score in (-0.5, 0.25, 1.0)]
    assert found == ([False, *right[1:]] if buffer["enable"] is False else right)


def test_a_grade_with_acc_needs_no_declared_score():
    verdicts = read_verdicts(declares(0.1), None, with_held_out({ACC: 1, "val-aux/openai/gsm8k/score/mean@1": 1}))
    assert verdicts.has_acc and verdicts.is_right({"score": 0.5, "acc": 0.0}) is False
    assert verdicts.is_right({"score": 0.5}) is True, "a training rollout, of which VeRL dumps the score alone"
