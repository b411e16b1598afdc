"""Following metrics.jsonl while it grows, and the line a step is told in."""

from posttrain_verl.run.metrics import MetricsTail, step_line


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
    assert step_line(7, metrics) == "step 7: reward 0.1235, s/step 2, gsm8k/acc/mean@1 0.5"
