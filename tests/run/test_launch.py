"""What `launch` says and leaves when it cannot start; tests/e2e starts it for real."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from posttrain_verl.preflight.report import Report
from posttrain_verl.run import prepare, supervise
from posttrain_verl.run.folder import RunFolder, Status
from posttrain_verl.terminal.problem import InputError, Problem


def command(*words):
    program = [sys.executable, "-m", "posttrain_verl.launch", *words]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_a_second_launch_into_the_same_folder(tmp_path):
    folder = RunFolder.create(tmp_path / "math_sft" / "it")
    done = command("recipe=math_sft", "base_model=tiny", f"posttrain.runs_dir={tmp_path}", "posttrain.run_id=it",
                   f"posttrain.data_dir={tmp_path}/data")  # fmt: skip
    assert done.returncode == 2
    assert f"{folder.path} exists already" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(folder.path.iterdir()) == []
    assert not (tmp_path / "data").exists(), "nothing is built for a launch that cannot be"


def test_an_unknown_recipe_names_those_that_exist():
    done = command("recipe=math_grop")
    assert done.returncode == 2
    assert "math_grpo" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_that_cannot_be_built_ends_with_its_reason(tmp_path):
    done = command("recipe=demo_sft", "base_model=tiny", "hardware=cpu", f"posttrain.runs_dir={tmp_path}",
                   f"posttrain.data_dir={tmp_path}/data", "posttrain.mix.sources.sums.size=2")  # fmt: skip
    assert done.returncode == 2
    assert "the mix embedded cannot be built" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("error", [InputError("no", [Problem("no")]), KeyboardInterrupt()])
@pytest.mark.parametrize("fails", ["prepare_data", "plan_facts"])
def test_a_launch_that_starts_nothing_leaves_no_folder(tmp_path, monkeypatch, fails, error):
    def fail(*_):
        raise error

    composed = SimpleNamespace(run_dir=lambda: tmp_path / "it", for_run=lambda path, model: OmegaConf.create({}),
                               settings=SimpleNamespace(reward=None))  # fmt: skip
    monkeypatch.setattr(prepare.preflight, "run_checks", lambda composed: Report([]))
    monkeypatch.setattr(prepare, "prepare_model", lambda composed: (None, False))
    monkeypatch.setattr(prepare, "prepare_data", lambda composed: False)
    monkeypatch.setattr(prepare, fails, fail)
    with pytest.raises(type(error)):
        prepare.set_up_run(composed)
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize(("missing", "checks"), [((False, False), 1), ((True, False), 2), ((False, True), 2)])
def test_what_was_built_is_checked_too(tmp_path, monkeypatch, missing, checks):
    composed = SimpleNamespace(run_dir=lambda: tmp_path / "it", for_run=lambda path, model: OmegaConf.create({}),
                               settings=SimpleNamespace(reward=None))  # fmt: skip
    looked = []
    monkeypatch.setattr(prepare.preflight, "run_checks", lambda composed: looked.append(1) or Report([]))
    monkeypatch.setattr(prepare, "prepare_model", lambda composed: (None, missing[0]))
    monkeypatch.setattr(prepare, "prepare_data", lambda composed: missing[1])
    monkeypatch.setattr(prepare, "plan_facts", lambda composed, model: {})
    assert prepare.set_up_run(composed).plan.exists()
    assert len(looked) == checks


def test_of_launches_at_once_one_builds_the_data(tmp_path, monkeypatch):
    """A second build would take away the files that the first launch reads by now."""
    built = []

    def build(mix, folder, **_):
        time.sleep(0.2)
        built.append(folder)

    monkeypatch.setattr(prepare.data_prep, "build", build)
    monkeypatch.setattr(prepare.data_prep, "is_complete", lambda folder, mix: bool(built))
    monkeypatch.setattr(prepare.preflight.data, "reads_offline_mix", lambda composed: True)
    mix = OmegaConf.create({"mix": {"name": "m"}})
    composed = SimpleNamespace(posttrain=mix, data_dir=tmp_path / "data" / "m", settings=SimpleNamespace(reward=None))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare.prepare_data, [composed] * 4))
    assert built == [composed.data_dir]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (
            Status("done", started=100.0, ended=130.4, last_step=8),
            "done after 8 steps in 30 s; checkpoints and metrics in {0}",
        ),
        (Status("failed", why="ValueError: no"), "failed: ValueError: no; the log is {0}/log.txt"),
    ],
)
def test_the_last_line(tmp_path, status, line):
    assert supervise.closing_line(RunFolder(tmp_path), status) == line.format(tmp_path)


def test_the_last_line_of_a_resumed_run_counts_all_attempts(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_status(Status("failed", started=100.0, ended=130.0))
    folder.next_attempt(4)
    status = Status("done", started=9000.0, ended=9012.0, last_step=8, attempt=2)
    assert supervise.closing_line(folder, status).startswith("done after 8 steps in 42 s of 2 attempts;")
