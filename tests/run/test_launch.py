"""What `launch` says and leaves when it cannot start; tests/e2e starts it for real."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from posttrain_verl import launch
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.run import session
from posttrain_verl.run.folder import RunFolder, Status


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


@pytest.mark.parametrize("error", [InputError("no", [Problem("no")]), KeyboardInterrupt()])
def test_a_launch_that_starts_nothing_leaves_no_folder(tmp_path, error):
    folder = RunFolder.create(tmp_path / "it")
    folder.log.write_text("")
    with pytest.raises(type(error)), launch.removed_on_failure(folder):
        raise error
    assert not folder.path.exists()


def test_of_launches_at_once_one_builds_the_data(tmp_path, monkeypatch):
    """A second build would take away the files that the first launch reads by now."""
    built = []

    def build(mix, folder, progress):
        time.sleep(0.2)
        built.append(folder)

    monkeypatch.setattr(launch.data_prep, "build", build)
    monkeypatch.setattr(launch.data_prep, "is_complete", lambda folder, mix: bool(built))
    monkeypatch.setattr(launch.preflight.data, "is_offline", lambda composed: True)
    mix = OmegaConf.create({"mix": {"name": "m"}})
    composed = SimpleNamespace(posttrain=mix, data_dir=tmp_path / "data" / "m")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(launch.prepare_data, [composed] * 4))
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
    assert session.conclusion(RunFolder(tmp_path), status) == line.format(tmp_path)
