"""One call of an own reward, as VeRL makes it, and a trial of some in a process of its own."""

import pytest

from reward_fns import trial
from reward_fns.own import OwnReward, RewardError, parse_word, render_gold
from reward_fns.trial import Case, Request


def grade(file, response="#### 4", arguments=None):
    return OwnReward(str(file), arguments=arguments or {}).grade("my/source", response, "4", {"id": "a"})


@pytest.mark.parametrize(
    ("word", "path", "name"),
    [
        ("my_reward.py:score", "/my_reward.py", "score"),
        ("my_reward.py", "/my_reward.py", "compute_score"),
        ("/a b/c:d.py:f", "/a b/c:d.py", "f"),
        ("pkg://mine.rewards:f", "pkg://mine.rewards", "f"),
    ],
)
def test_words(word, path, name):
    found = parse_word(word)
    assert found.path.endswith(path) and (found.path.startswith("/") or found.file is None) and found.name == name


@pytest.mark.parametrize("word", ["my_reward", "score", "my_reward.py:", "my_reward.py:a b", "pkg://", "reward.yaml"])
def test_what_is_not_a_word(word):
    with pytest.raises(ValueError, match="neither"):
        parse_word(word)


@pytest.mark.parametrize(
    ("body", "score"),
    [
        ("return 0.5", 0.5),
        ("return True", 1.0),
        ("import numpy; return numpy.float32(2)", 2.0),
        ("return {'score': 1, 'acc': 0, 'pred': 'x'}", 1.0),
        ("return float(extra_info['id'] == 'a' and extra_info['num_turns'] == 2 and data_source == 'my/source')", 1.0),
    ],
)
def test_what_rewards_return(reward_file, body, score):
    assert grade(reward_file(body))["score"] == score


def test_one_event_loop_awaits_all_calls(reward_file):
    file = reward_file(
        "import asyncio\n\n\nasync def compute_score(**_):\n    await asyncio.sleep(0)\n"
        "    return float(id(asyncio.get_running_loop()))"
    )
    reward = OwnReward(str(file))
    assert reward.is_awaited
    assert reward.grade("s", "", "")["score"] == reward.grade("s", "", "")["score"]


def test_arguments_win_over_the_row_as_in_verl(reward_file):
    file = reward_file("def compute_score(ground_truth, weight=1, **_):\n    return weight * float(ground_truth)")
    assert grade(file, arguments={"weight": 3})["score"] == 12
    assert grade(file, arguments={"ground_truth": "7"})["score"] == 7


@pytest.mark.parametrize(
    ("body", "fault", "message"),
    [
        ("return float('nan')", "result", "the score nan"),
        ("return '1'", "result", r"'1' \(str\), which is not a number"),
        ("return None", "result", "NoneType"),
        ("return {}", "result", "a dict without score"),
        ("return {'score': 1.0, 'parts': {'a': 1}}", "result", "takes the mean of all values"),
        ("return 1 / len(solution_str)", "raised", r"ZeroDivisionError: division by zero \(other_reward.py, line 2\)"),
        ("import nothing_like_it\ndef compute_score(**_): return 1", "load", r"No module named 'nothing_like_it' \(other_reward"),
        ("def compute_score(", "syntax", r"SyntaxError: .* \(other_reward.py, line 1\)"),
        ("def compute_scores(**_): return 1", "name", "has no function compute_score; it defines compute_scores"),
        ("def compute_score(prompts, completions): return 1", "signature", r"compute_score\(prompts, completions\)"),
        ("async def later(**_): return 1\ndef compute_score(**_): return later()", "result", "VeRL awaits only"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_named(reward_file, body, fault, message):
    with pytest.raises(RewardError, match=message) as caught:
        grade(reward_file(body), response="")
    assert caught.value.fault == fault


@pytest.mark.parametrize(
    ("mark", "text"),
    [("hashes", "#### 5"), ("boxed", "The answer is \\boxed{5}."), ("tag", "<answer>5</answer>"), ("plain", "5")],
)
def test_a_gold_is_answered_where_the_prompt_asks_for_it(mark, text):
    assert render_gold(5, mark) == text
    assert "#### 5" in render_gold(5, None) and "<answer>5</answer>" in render_gold(5, None)


def tried(file, count=1, **options):
    cases = [Case("s", "#### 4", "4", {}, is_gold=True), Case("s", "", "4")][:count]
    return trial.try_reward(Request(OwnReward(str(file)), cases, **options))


def test_a_trial_measures_calls(reward_file):
    seen = tried(reward_file("print('noise'); return {'score': len(solution_str), 'b': 1}"), 2)
    assert [(call.score, call.keys) for call in seen.calls] == [(6.0, ["b", "score"]), (0.0, ["b", "score"])]
    assert seen.awaited is False and not seen.faults


@pytest.mark.parametrize(
    ("body", "kind", "what"),
    [
        ("while True: pass", "hangs", "a call did not end within 1 s: it stands in compute_score, line 2"),
        ("import time; time.sleep(60)", "hangs", "a call did not end within 1 s: it stands in compute_score, line 2"),
        ("import os; os.kill(os.getpid(), 11)", "dies", "the process ended in a call with signal SIGSEGV"),
        ("import os; print('no licence', flush=True); os._exit(3)", "dies", "a call with exit code 3: no licence"),
        ("import sys; sys.exit('no licence')", "raised", "SystemExit: no licence"),
        ("def compute_score(: pass", "syntax", "SyntaxError"),
    ],
)
def test_a_trial_ends_whatever_the_reward_does(reward_file, body, kind, what):
    (fault,) = tried(reward_file(body), call_seconds=1.0).faults
    assert fault.kind == kind and what in fault.what


def test_what_is_out_of_reach_is_told_from_an_error(reward_file):
    body = "import urllib.request; return float(urllib.request.urlopen('http://127.0.0.1:9/').read())"
    (fault,) = tried(reward_file(body)).faults
    assert (fault.kind, fault.is_network, fault.call) == ("raised", True, 0)
    wrapped = "try:\n        raise ConnectionError\n    except ConnectionError:\n        raise RuntimeError('judge')"
    assert tried(reward_file(wrapped)).faults[0].is_network
    assert not tried(reward_file("raise ValueError('judge')")).faults[0].is_network


def test_with_a_reward_model_that_is_not_here_nothing_is_called(reward_file):
    body = "def compute_score({}solution_str, **_): raise ValueError"
    taken = tried(reward_file(body.format("reward_router_address, ")), more={"reward_router_address": None})
    assert not taken.faults and not taken.calls
