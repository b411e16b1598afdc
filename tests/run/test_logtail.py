"""Reading logs: the first error, the last lines, and what comes after."""

import pytest

from posttrain_verl.run.logtail import first_error, follow, last_lines

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

    assert list(follow(log, done())) == ["new 0", "new 1", "new 2"]
