"""Reading logs: the first error, the last lines, and what comes after."""

import os
import threading

import pytest

from posttrain_verl.run.output import Log, first_error, follow_log, last_lines

RAY = "\x1b[36m(RewardLoopWorker pid=12)\x1b[0m "


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("all is well\n", ""),
        (f"{RAY}ValueError: first\nKeyError: 'second'\n", "ValueError: first"),
        (f"{RAY}ray.exceptions.RayTaskError(ValueError): ray::f() (pid=1)\n{RAY}ValueError: why\n", "ValueError: why"),
        (
            "ray.exceptions.RayTaskError(ValueError): ray::f() (pid=1)\n",
            "ray.exceptions.RayTaskError(ValueError): ray::f() (pid=1)",
        ),
        ("torch.OutOfMemoryError: 3 GiB\n", "torch.OutOfMemoryError: 3 GiB"),
        ("UserWarning: engine missing: ModuleNotFoundError('x')\n", ""),
    ],
)
def test_the_first_error_of_a_log(tmp_path, log, expected):
    (tmp_path / "log.txt").write_text(log)
    assert first_error(tmp_path / "log.txt") == expected


def test_a_log_that_is_rotated_while_it_is_written(tmp_path):
    """By another name, or copied and cut: what the run writes is seen, and no old error is taken for a new one."""
    file = tmp_path / "log.txt"
    file.write_text("ValueError: of an earlier attempt\n" * 10)
    with file.open("a+b", buffering=0) as writer:
        log = Log(writer)
        file.rename(tmp_path / "log.txt.1")
        file.write_text("")
        before = log.size
        writer.write(b"fine\n")
        assert log.size == before + 5
        assert log.first_error() == ""
        os.truncate(tmp_path / "log.txt.1", 0)
        writer.write(b"KeyError: 'new'\n")
        assert log.size == 16
        assert log.first_error() == "KeyError: 'new'"


@pytest.mark.parametrize("rotate", ["rename", "cut"])
def test_following_a_log_that_is_rotated(tmp_path, rotate):
    file = tmp_path / "log.txt"
    file.write_text("old\n" * 100)
    lines = follow_log(file, iter([False, False, False, False, True]))

    def next_after(text):
        with file.open("a") as log:
            log.write(text)
        return next(lines)

    with file.open("a") as log:
        log.write("")
    threading.Timer(0.1, lambda: file.open("a").write("first\n")).start()
    assert next(lines) == "first"
    if rotate == "rename":
        file.rename(tmp_path / "log.txt.1")
    else:
        os.truncate(file, 0)
    assert next_after("second\n") == "second"


def test_an_earlier_attempt_of_the_log_does_not_count(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("ValueError: first\n")
    start = log.stat().st_size
    with log.open("a") as file:
        file.write("KeyError: 'second'\n")
    assert first_error(log, start) == "KeyError: 'second'"


@pytest.mark.parametrize("lines", [1, 3, 20_000])
def test_the_last_lines(tmp_path, lines):
    log = tmp_path / "log.txt"
    text = [f"line {number}" for number in range(15_000)]
    log.write_text("\n".join(text) + "\n")
    assert last_lines(log, lines) == text[-lines:]


def test_what_is_written_is_followed_to_its_end(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("old\n")

    def done():
        for number in range(3):
            with log.open("a") as file:
                file.write(f"new {number}\n")
            yield number == 2

    assert list(follow_log(log, done())) == ["new 0", "new 1", "new 2"]
