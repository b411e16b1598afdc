"""Following metrics.jsonl while it grows, and the line a step is told in."""

import pytest

from posttrain_verl.run.folder import Status
from posttrain_verl.run.output import Log, MetricsTail, format_duration, progress_line, step_line


def test_a_validation_that_is_not_a_number():
    assert step_line(3, {"val-core/gsm8k/acc/mean@1": None, "val-core/other": 0.5}) == "step 3: other 0.5"


def test_only_whole_lines_are_read_and_each_once(tmp_path):
    file = tmp_path / "metrics.jsonl"
    tail = MetricsTail(file)
    assert list(tail.read()) == []
    with file.open("a") as log:
        log.write('{"step": 1, "data": {"a": 2}}\n{"step": 2, ')
        log.flush()
        assert list(tail.read()) == [(1, {"a": 2})]
        assert list(tail.read()) == []
        log.write('"data": {}}\n')
    assert list(tail.read()) == [(2, {})]


def test_the_line_of_a_step_names_what_was_measured():
    metrics = {"critic/score/mean": 0.123456, "timing_s/step": 2, "val-core/gsm8k/acc/mean@1": 0.5, "other": 3}
    assert step_line(7, metrics) == "step 7: reward 0.1235, s/step 2, held-out reward/gsm8k/mean@1 0.5"
    graded = metrics | {"val-aux/gsm8k/score/mean@1": 0.5}
    assert step_line(7, graded) == "step 7: reward 0.1235, s/step 2, held-out accuracy/gsm8k/mean@1 0.5"


def test_the_line_of_a_step_says_how_many_answers_had_no_reward():
    metrics = {"critic/score/mean": 0.938, "failed_answers/share": 0.62, "failed_answers/count": 159}
    assert step_line(1, metrics) == "step 1: reward 0.938, answers without a reward 159"
    assert step_line(1, {"critic/score/mean": 0.5, "failed_answers/share": 0.0}) == "step 1: reward 0.5"


LOGGED = """\
(TaskRunner pid=7) ValueError: of something else, before
(AgentLoopWorkerTQ pid=9) ERROR:2026-11-30 10:00:00,1:Error in _run_prompt for uid=ab
(AgentLoopWorkerTQ pid=9) Traceback (most recent call last):
(AgentLoopWorkerTQ pid=9) ray.exceptions.RayTaskError(TypeError): ray::RewardLoopWorker.compute_score() (pid=8)
(AgentLoopWorkerTQ pid=9)     return abs(int(text) - ground_truth)
(AgentLoopWorkerTQ pid=9) TypeError: unsupported operand type(s) for -: 'int' and 'str'
"""
CAUGHT = "(RewardLoopWorker pid=8) Reward computation failed for data_source=my/x: no such key. Response preview: 5..."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LOGGED, "TypeError: unsupported operand type(s) for -: 'int' and 'str'"),
        (CAUGHT, "Reward computation failed for data_source=my/x: no such key. Response preview: 5..."),
        ("ValueError: of something else\n", ""),
    ],
)
def test_why_an_answer_failed(tmp_path, text, reason):
    with (tmp_path / "log.txt").open("a+b") as file:
        log = Log(file)
        file.write(text.encode())
        file.flush()
        assert log.first_failed_answer() == reason


def test_the_live_line():
    status = Status("running", last_step=40, total_steps=400, stage="generation")
    metrics = {
        "critic/score/mean": 0.5,
        "response_length/mean": 210.0,
        "perf/total_num_tokens": 5000,
        "perf/time_per_step": 10,
    }
    assert progress_line(status, metrics, 10.0) == (
        "generation, step 40/400, reward 0.5, length 210, 500 tokens/s, ETA 1 h 0 min"
    )
    assert progress_line(Status("running"), {}, None) == "starting, step 0"
    assert (
        progress_line(Status("running", last_step=1), {"train/global_tokens": 100}, 2.0)
        == "training, step 1, 50 tokens/s"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (61, "1 min"), (3661, "1 h 1 min"), (200_000, "2 d 7 h")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text
