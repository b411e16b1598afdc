"""Parts have a share of the budget each, and a part that fails or lasts too long does not keep the others from running."""

import sys
import time
from pathlib import Path

import pytest

from posttrain_verl.first_gpu_hour import hour_parts
from posttrain_verl.first_gpu_hour.hour_parts import (
    FAILED,
    NOT_RUN,
    OUT_OF_TIME,
    PASSED,
    Part,
    execute_command,
    run_parts,
)


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


class Clock:
    """Time that passes only where a fake command lasts."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(hour_parts, "time", made)
    return made


def run(made: list[Part], seconds: float, home: Path, clock: Clock, lasting: dict[str, float]) -> None:
    def command(words, limit, log):
        clock.now += min(lasting[words[0]], limit)
        return None if lasting[words[0]] > limit else 0

    run_parts(made, seconds, home, command, lambda part: None)


def test_what_one_part_spares_the_others_get(tmp_path, clock):
    made = [Part(name, [name], share) for name, share in (("a", 1), ("b", 1), ("c", 2))]
    run(made, 400, tmp_path, clock, {"a": 20, "b": 20, "c": 20})
    assert [part.limit for part in made] == [100, pytest.approx(380 / 3), 360]
    assert [part.state for part in made] == [PASSED] * 3


def test_the_whole_ends_in_its_time_whatever_the_parts_do(tmp_path, clock):
    made = [Part(name, [name], 1) for name in "abc"]
    run(made, 300, tmp_path, clock, dict.fromkeys("abc", 1000))
    assert clock.now <= 300
    assert [(part.state, part.limit) for part in made] == [(OUT_OF_TIME, 100)] * 3


def test_with_little_time_the_first_parts_run(tmp_path, clock):
    made = [Part(name, [name], 1) for name in "abc"]
    run(made, 18, tmp_path, clock, dict.fromkeys("abc", 9))
    assert [part.state for part in made] == [PASSED, NOT_RUN, NOT_RUN]


def test_what_has_no_time_left_is_not_started_and_says_so(tmp_path, clock):
    made = [Part("a", ["a"], 100), Part("b", ["b"], 1)]
    run(made, 100, tmp_path, clock, {"a": 1000, "b": 1})
    assert made[1].state == NOT_RUN and "1 s of the budget were left" in made[1].why


def test_a_failure_is_printed_with_its_traceback_and_the_next_part_runs(tmp_path, capsys):
    made = [Part("bad", python("1 / 0"), 1), Part("good", python("print('fine')"), 1)]
    run_parts(made, 60, tmp_path, execute_command, lambda part: None)
    assert [(part.state, part.why) for part in made] == [(FAILED, "exit code 1"), (PASSED, "")]
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert made[1].lines == ["fine"]


def test_a_command_that_lasts_too_long_is_ended_with_its_children(tmp_path):
    children = tmp_path / "children"
    sleeper = f"{python('import time; time.sleep(600)')!r}"
    script = (
        f"import subprocess; c = subprocess.Popen({sleeper}); open({str(children)!r}, 'w').write(str(c.pid)); c.wait()"
    )
    started = time.monotonic()
    assert execute_command(python(script), 4, tmp_path / "log") is None
    assert time.monotonic() - started < 6
    for _ in range(50):  # who was ended is gone once somebody has waited for it
        state = Path(f"/proc/{children.read_text()}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child of an ended part lives")
