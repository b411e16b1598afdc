"""What `check` says of an own reward: problems are what VeRL would end by, and what may be meant is a warning."""

from dataclasses import replace
from functools import cache

import pytest
from omegaconf import OmegaConf

from posttrain_verl.compose import compose
from posttrain_verl.preflight import data, own_reward, rewards
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.terminal.problem import blocking
from posttrain_verl.verl.composed import Composed
from reward_fns.own import OwnReward
from reward_fns.trial import Call, Case, Fault, Trial

LAUNCH = ["recipe=math_grpo", "hardware=cpu", "mix=embedded", "base_model=tiny"]


@cache
def base() -> Composed:
    """Composed once, since a launch takes a second."""
    return compose(LAUNCH)


def changed(**changes: object) -> Composed:
    """The launch with other settings of the reward and the data, under our names."""
    config = base().verl.copy()
    for name, value in changes.items():
        base().stage.settings(config).put(name, value)
    return replace(base(), verl=config)


@pytest.fixture
def launched(rows):
    """`launched(reward_path=..., ...)` on rows of a source that we do not know."""
    file = str(rows())
    return lambda **changes: changed(train_files=file, val_files=file, **changes)


@pytest.fixture
def checked(launched):
    """What the check of rewards finds there, under a reward of ones own."""

    def check(path: object, name: str = "compute_score", **changes: object) -> list[str]:
        found = rewards.check_rewards(launched(reward_path=str(path), reward_name=name, **changes))
        return [f"{each.level}: {each.what}" for each in found]

    return check


def test_a_source_needs_a_grader_and_an_own_reward_is_one(launched, checked):
    (problem,) = rewards.check_rewards(launched())
    assert "no grader is registered for it" in problem.what and problem.remedy.startswith("add reward=FILE.py:NAME")
    assert checked("my_reward.py", "score") == []
    assert checked("my_reward.py", "score", reward_arguments={"partial": 0.3}) == []
    assert "unexpected keyword argument 'part'" in checked("my_reward.py", "score", reward_arguments={"part": 1})[0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('this grader cannot grade')", "problem: other_reward.py:compute_score: ValueError: this grader"),
        ("return solution_str[-1:]", "problem: other_reward.py:compute_score: it returns the score '0'"),
        ("return 1.0 / len(solution_str)", "for an empty answer of my/subtraction"),
        ("return 0.5", "warning: other_reward.py:compute_score gives 0.5 to every answer that was tried"),
        ("return -len(solution_str)", "warning: other_reward.py:compute_score gives golds"),
        ("return {'score': 1.0, 'a': 1} if solution_str else {'score': 0.0}", "returns other keys for other answers"),
        ("return {'score': 1.0 * bool(solution_str), 'acc': 5}", "warning: other_reward.py:compute_score returns acc=5, and an"),
        ("return {'score': 1.0 * bool(solution_str), 'acc': 'yes'}", "returns acc='yes', which is not a number"),
        ("return {'score': 1.0 * bool(solution_str), 'acc': None}", "returns acc=None, which is not a number"),
        ("return {'score': 1.0 * bool(solution_str), 'acc': [1]}", "returns acc=[1], which is not a number"),
        ("return {'score': 1.0 * bool(solution_str), 'steps': [1], 'why': ''}", "neither a number nor text under steps"),
        ("return 1 / (int(ground_truth) - 74) if solution_str else -9.0", "ZeroDivisionError: division by zero"),
        ("raise ConnectionError", "warning: other_reward.py:compute_score: ConnectionError"),
    ],
)  # fmt: skip
def test_what_is_said(checked, reward_file, body, said):
    (found,) = checked(reward_file(body))
    assert said in found


ONE_KIND = {  # rewards that raise on one kind of answer alone; `text` is what stands after the mark
    "a wrong number": "return 0.0 if text == '' or text == ground_truth else -abs(int(text) - ground_truth)",
    "a word": "return 1 / (1 + abs(int(text) - int(ground_truth))) if text else 0.0",
    "an answer that is cut off": "return 0.0 if solution_str[:1] in '8' else float(solution_str.split()[1] == ground_truth)",
    "a negative difference": "return 0.0 if not text.isdecimal() else math.sqrt(int(text) - int(ground_truth))",
}


@pytest.mark.parametrize("body", ONE_KIND.values(), ids=ONE_KIND)
def test_a_reward_that_raises_on_wrong_answers_alone(checked, reward_file, body):
    head = "import math\n\n\ndef compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
    file = reward_file(f"{head}    text = solution_str.rpartition('####')[2].strip()\n    {body}")
    found = checked(file)
    assert found and found[0].startswith("problem: other_reward.py:compute_score: ")
    assert (
        "for a wrong answer of my/subtraction: called with solution_str='" in found[0]
        and "ground_truth='80'" in found[0]
    )


@pytest.mark.parametrize(
    "body",
    [
        "return min(len(solution_str) / 100, 1.0)",
        "return float(solution_str.startswith('####'))",
        "async def compute_score(solution_str, ground_truth, **_):\n    return {'score': float(ground_truth in solution_str)}",
        "return 1 / (1 + abs(float(text) - float(ground_truth))) if (text := solution_str[5:]).isdecimal() else 0.0",
        "return float(ground_truth in solution_str) - 0.5 * ('unknown' in solution_str)",
        "return float(solution_str.rpartition('#')[2].strip() == ground_truth)",
        "import asyncio\nasync def compute_score(solution_str, ground_truth, **_):\n    await asyncio.sleep(0)\n"
        "    try:\n        return -abs(int(solution_str[5:]) - int(ground_truth)) / 100\n"
        "    except ValueError:\n        return -9.0",
        "return float(extra_info['index'] >= 0 and extra_info['rollout_reward_scores'] == {} and '8' in solution_str)",
    ],
)  # fmt: skip
def test_healthy_rewards_pass_in_silence(checked, reward_file, body):
    assert checked(reward_file(body)) == []


def test_an_option_of_our_graders_under_two_names():
    found = rewards.check_rewards(changed(reward_arguments={"timeout": 0, "limit": 3}))
    assert any("timeout=0 and limit=3 are two names of one option" in each.what for each in found)


def test_data_that_is_not_built_leaves_the_file_to_look_at(here):
    def check(path: str, name: str):
        none = f"{here}/none.parquet"
        found = rewards.check_rewards(changed(train_files=none, val_files=none, reward_path=path, reward_name=name))
        return found[0].what

    with pytest.raises(CannotTell, match=r"my_reward.py:score was loaded, and not called"):
        check("my_reward.py", "score")
    assert "has no function scor; it defines score" in check("my_reward.py", "scor")
    assert "does not exist" in check("nowhere.py", "score")


def test_keys_of_the_mix_may_name_any_source_where_the_reward_is_ones_own(here):
    unknown = "+posttrain.mix.sources.sums.data_source=my/sums"
    assert "no reward is registered" in data.check_mix(compose([*LAUNCH, unknown]))[0].what
    assert data.check_mix(compose([*LAUNCH, unknown, "reward=my_reward.py:score"])) == []
    sft = compose(["recipe=math_sft", "hardware=cpu", "mix=embedded", "base_model=tiny", unknown])
    assert data.check_mix(sft) == [], "nobody grades the rows of SFT"


def test_async_functions_and_the_manager_that_refuses_them(checked, reward_file):
    file = reward_file("async def compute_score(solution_str, **_): return float(len(solution_str))")
    assert checked(file) == []
    (found,) = checked(file, manager_name="remote")
    assert (
        found
        == "problem: other_reward.py:compute_score is async, and the reward manager remote takes plain functions alone"
    )


REWARD = OwnReward("/a/r.py", "score")
CASES = [Case("s", "#### 4", "4", is_gold=True), Case("s", "", "4")]


@pytest.mark.parametrize(
    ("fault", "forgives", "blocks"),
    [
        (Fault("syntax", "w"), "elsewhere", True),
        (Fault("name", "w"), "elsewhere", True),
        (Fault("load", "w"), "", True),
        (Fault("load", "w"), "the run trains elsewhere", False),
        (Fault("raised", "w", call=1), "", True),
        (Fault("raised", "w", is_network=True, call=1), "", False),
        (Fault("result", "w", call=0), "", True),
        (Fault("dies", "w", call=0), "", True),
        (Fault("hangs", "w", call=0), "", False),
    ],
)
def test_which_faults_stop_a_launch(fault, forgives, blocks):
    found = list(own_reward.judge_faults(Trial(faults=[fault, fault]), REWARD, CASES, forgives))
    assert len(found) == 1 and bool(blocking(found)) == blocks and found[0].remedy


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("posttrain", "elsewhere", "the run trains elsewhere"),
        ("reward.reward_manager.name", "rate_limited", "the reward manager rate_limited gives such an answer 0"),
        ("reward.reward_manager.source", "importlib", "a reward manager of your own calls it"),
        ("actor_rollout_ref.rollout.agent.default_agent_loop", "tool_agent", "an agent loop adds facts of its own"),
        ("reward.num_workers", 4, ""),
    ],
)
def test_what_an_exception_here_does_not_prove(key, value, why, monkeypatch):
    monkeypatch.setattr(own_reward.machine, "is_here", lambda _: value != "elsewhere")
    config = base().verl.copy()
    OmegaConf.update(config, key, value, force_add=True)
    composed = replace(base(), verl=config)
    assert own_reward._excuse_of(composed, composed.settings.reward) == why


@pytest.mark.parametrize(
    ("wall", "cpu", "answers", "slow"),
    [(0.001, 0.001, 8192, False), (0.1, 0.1, 8192, True), (0.1, 0.001, 8192, False), (5.0, 0.0, 8192, True),
     (5.0, 5.0, 8, False)],
)  # fmt: skip
def test_speed_matters_by_the_step(wall, cpu, answers, slow):
    settings = changed(reward_workers=8).settings.reward
    calls = [Call(0, 1.0, [], 30.0, 30.0), Call(1, 1.0, [], wall, cpu), Call(1, 1.0, [], wall, cpu)]
    found = list(own_reward.judge_speed(Trial(calls=calls), REWARD, answers, settings))
    assert bool(found) == slow and not blocking(found)


def test_golds_that_no_model_would_write(here, rows):
    def tests(row):
        return row | {"reward_model": {"style": "rule", "ground_truth": '{"test_list": []}'}}

    file = str(rows(8, tests))
    composed = changed(train_files=file, val_files=file, reward_path=str(here / "my_reward.py"), reward_name="score")
    always, others = own_reward.sample_cases(composed, "data_source")
    cases = always + others
    assert {case.response for case in cases} == {own_reward.ANY_ANSWER, ""} and not any(case.is_gold for case in cases)
