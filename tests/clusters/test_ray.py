"""A run that is a job: what its folder says, the exit code of the launch that follows it, and how it is gone on with."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain_verl import clusters, launch, run_verbs, stop, verbs
from posttrain_verl.clusters import ray
from posttrain_verl.clusters.ray_job import RayJob
from posttrain_verl.list import runs_table
from posttrain_verl.run.folder import RUNNING, RunFolder, Status
from posttrain_verl.status import status_lines
from posttrain_verl.terminal.console import stdout
from posttrain_verl.terminal.problem import InputError


class Stub(RayJob):
    """A job with a given end; `left` are the files of its run folder on the cluster."""

    def __init__(self, state: str, code: int | None, left: dict[str, str], lines: tuple = ("step 1: loss 2",)):
        super().__init__("http://h:1", "it", "~/runs/it")
        self.ends, self.code, self.left, self.lines = state, code, left, lines

    def follow(self):
        for line in self.lines:
            if isinstance(line, BaseException):
                raise line
            yield line

    def state(self) -> str:
        return self.ends

    def exit_code(self) -> int | None:
        return self.code

    def message(self) -> str:
        return "Job entrypoint command failed with exit code 2"

    def logs(self) -> str:
        return "\n".join(line for line in self.lines if isinstance(line, str))

    def waits_for(self) -> str:
        return ""

    def end(self) -> float | None:
        return None

    def stop(self, seconds: float = 90.0) -> str:
        self.ends = "interrupted"
        return self.ends

    def fetch(self, target: Path) -> bool:
        for name, text in self.left.items():
            (target / name).write_text(text)
        return bool(self.left)


@pytest.fixture
def folder(tmp_path):
    made = RunFolder.create(tmp_path / "it")
    made.write_status(Status(RUNNING, started=1.0, job={"address": "http://h:1", "id": "it", "folder": "~/runs/it"}))
    return made


def ended(state: str, why: str = "") -> dict[str, str]:
    return {"status.json": json.dumps({"state": state, "why": why, "last_step": 7}), "log.txt": "all of it\n"}


@pytest.mark.parametrize(
    ("job", "code", "state", "why", "step"),
    [
        (Stub("done", 0, ended("done")), 0, "done", "", 7),
        (Stub("failed", 1, ended("failed", "ValueError: no")), 1, "failed", "ValueError: no", 7),
        (Stub("failed", 2, {}, ()), 2, "failed", "Job entrypoint command failed with exit code 2", None),
        (Stub("failed", None, {}, ()), 1, "failed", "Job entrypoint command failed with exit code 2", None),
        (
            Stub("interrupted", None, ended("interrupted", "`stop`, or a SIGTERM of a scheduler"), ()),
            130,
            "interrupted",
            "`stop`, or a SIGTERM of a scheduler",
            7,
        ),
        (Stub("interrupted", None, {}, ()), 130, "interrupted", "the job was stopped on the cluster", None),
    ],
)
def test_how_a_job_ends(folder, job, code, state, why, step):
    assert ray._follow_job(job, folder, folder.read_status()) == code
    status = folder.read_status()
    assert (status.state, status.why, status.last_step) == (state, why, step)
    assert status.job == {"address": "http://h:1", "id": "it", "folder": "~/runs/it"} and status.ended
    assert folder.log.read_text() == job.left.get("log.txt", "step 1: loss 2\n" if job.lines else "")


def test_ctrl_c_is_the_reason_of_a_job_that_it_stopped(folder):
    pressed = Stub("running", None, ended("interrupted", "`stop`, or a SIGTERM of a scheduler"), (KeyboardInterrupt(),))
    assert ray._follow_job(pressed, folder, folder.read_status()) == 130
    assert re.fullmatch(r"stopped by \S+@\S+ with Ctrl-C", folder.read_status().why)


REFUSAL = (
    "hardware=cpu changes 6 other settings",
    "recipe 'x' cannot launch (1 problem):",
    "  1. a.parquet is missing",
    "     build it",
)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (REFUSAL, "recipe 'x' cannot launch (1 problem): 1. a.parquet is missing"),
        (("/bin/sh: 1: python: not found",), "posttrain.cluster.python="),
        (
            ("Traceback (most recent call last):", "ModuleNotFoundError: No module named 'verl'"),
            "posttrain.cluster.python=",
        ),
        (("step 1: loss 2", "ValueError: of the user", "step 2: loss 1"), "ValueError: of the user (Job entrypoint"),
        ((), "Job entrypoint command failed with exit code 2"),
    ],
)
def test_why_a_launch_failed_that_left_no_folder_is_read_from_its_log(lines, said):
    assert said in Stub("failed", 1, {}, lines).failure()


@pytest.mark.parametrize(
    ("lines", "stage", "step"),
    [
        ((), "preparing", None),
        (
            ("hardware=cpu changes 6", "building the mix embedded in /data", ""),
            "preparing: building the mix embedded in /data",
            None,
        ),
        (
            ("  40 s: alive, starting, loading the model (Ray)",),
            "its log ends with `40 s: alive, starting, loading",
            None,
        ),
        (("step 1: loss 2", "  60 s: alive, after step 1, checkpoint"), "`60 s: alive, after step 1, checkpoint`", 1),
    ],
)
def test_the_stage_of_a_job_elsewhere_is_read_from_its_log(folder, monkeypatch, lines, stage, step):
    monkeypatch.setattr(ray, "folder_job", lambda folder: Stub("running", None, {}, lines))
    status = ray.refresh_status(folder)
    assert (status.state, status.last_step) == (RUNNING, step) and status.stage.startswith(stage.split("`")[0])
    assert stage in status.stage and folder.read_status() == status


def test_the_stage_of_a_job_is_that_of_its_run_where_its_folder_is_seen(folder, monkeypatch, tmp_path):
    job = Stub("running", None, {})
    job.folder = str(tmp_path / "there")
    there = RunFolder.create(tmp_path / "there")
    there.metrics.write_text('{"step": 3, "data": {"train/loss": 2.5}}\n')
    monkeypatch.setattr(ray, "folder_job", lambda folder: job)
    folder.write_status(replace(folder.read_status(), started=1000.0))
    there.write_status(Status(RUNNING, started=100.0, last_step=3, stage="update"))
    assert ray.refresh_status(folder).last_step == 1, "the folder is still that of an earlier attempt"
    there.write_status(Status(RUNNING, started=1009.0, last_step=3, total_steps=8, stage="update"))
    lines = status_lines(folder, now=1060.0)
    assert "update; running for 1 min (attempt 1, job it at http://h:1)" in lines and "step 3 of 8" in lines
    assert lines[-1] == "step 3: loss 2.5"


def test_a_job_that_waits_is_queued_and_ray_says_for_what(folder, monkeypatch):
    waiting = Stub("running", None, {}, ())
    monkeypatch.setattr(waiting, "waits_for", lambda: "Job has not started yet.")
    monkeypatch.setattr(ray, "folder_job", lambda folder: waiting)
    assert ray.refresh_status(folder).stage == "queued: Job has not started yet."


def test_stop_says_who_and_how_to_resume_and_list_shows_it(folder, monkeypatch, capsys):
    job = Stub("running", None, ended("interrupted", "`stop`, or a SIGTERM of a scheduler"))
    monkeypatch.setattr(ray, "folder_job", lambda folder: job)
    monkeypatch.setenv("COLUMNS", "200")
    found(folder)
    assert stop.run(verbs.Stop(run=str(folder.path))) == 0
    assert re.match(
        rf"interrupted: stopped by \S+@\S+ with `stop`; resume it: .*resume run={folder.path}$", capsys.readouterr().out
    )
    assert stop.run(verbs.Stop(run=str(folder.path))) == 0
    assert "does not run: interrupted: stopped by" in capsys.readouterr().out
    stdout().print(runs_table([folder], folder.path.parent.parent, now=9.0))
    assert "stopped by" in capsys.readouterr().out


def test_list_asks_the_clusters_and_one_that_is_silent_only_once(folder, monkeypatch):
    asked = []

    def ask(folder):
        asked.append(folder)
        raise InputError("the Ray cluster at http://h:1 cannot be used", [])

    monkeypatch.setattr(ray, "folder_job", ask)
    seen = list(run_verbs.asked_states([folder, folder]))
    assert len(asked) == 1
    assert [(state, "http://h:1 does not answer" in status.why) for _, state, status in seen] == [(RUNNING, True)] * 2


def test_a_job_worked_as_long_as_its_run_there(folder, monkeypatch):
    """Neither the time in a queue nor the time until somebody asks counts."""
    left = ended("done")
    left["status.json"] = json.dumps(
        json.loads(left["status.json"]) | {"started": 1000.0, "ended": 1090.0, "machine": "n1"}
    )
    monkeypatch.setattr(ray, "folder_job", lambda folder: Stub("done", 0, left))
    status = ray.refresh_status(folder)
    assert (status.started, status.ended, status.machine) == (1000.0, 1090.0, "n1")


def test_losing_the_head_ends_the_launch_and_not_the_run(folder, told):
    lost = Stub("running", None, {}, ("step 1: loss 2", ConnectionError("http://h:1 has been silent for 60 s")))
    assert ray._follow_job(lost, folder, folder.read_status()) == 1
    assert "the job may continue: python -m posttrain_verl.status" in told[-1]
    assert folder.read_status().state == RUNNING


def test_refresh_fetches_once_the_job_has_ended(folder, monkeypatch):
    monkeypatch.setattr(ray, "folder_job", lambda folder: Stub("running", None, {}))
    assert ray.refresh_status(folder).state == RUNNING
    monkeypatch.setattr(ray, "folder_job", lambda folder: Stub("done", 0, ended("done")))
    assert ray.refresh_status(folder).last_step == 7
    monkeypatch.setattr(ray, "folder_job", lambda folder: Stub("failed", 1, {}))
    assert ray.refresh_status(folder).state == "done", "what has ended is not asked for again"


def test_the_reason_of_a_job_that_was_refused_is_not_that_of_the_run_before(folder):
    refused = Stub("failed", 2, ended("failed", "ValueError: of the first attempt"), ())
    ray._follow_job(refused, folder, folder.read_status())
    assert folder.read_status().why == "Job entrypoint command failed with exit code 2"


@pytest.fixture
def submitted(composed, head, tmp_path):
    """The run folder of a job whose data was sent along; `python` there prints its words, one a line."""
    (tmp_path / "data/embedded").mkdir(parents=True)
    for name in ("sft_train", "sft_val"):
        (tmp_path / f"data/embedded/{name}.parquet").write_bytes(b"x")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    words = ["cluster=ray", "address=http://h:1", "hardware=cpu", f"posttrain.cluster.runs_dir={tmp_path}/the runs",
             f"posttrain.cluster.python={python}", "posttrain.detach=true", "posttrain.skip=[data]"]  # fmt: skip
    assert clusters.submit_launch(composed(*words)) == 0
    return RunFolder(tmp_path / "runs/math_sft/it")


def told(head) -> list[str]:
    """What the submitted job says when the head runs it."""
    return subprocess.check_output(head.submitted["entrypoint"], shell=True, text=True).splitlines()


def test_a_job_is_gone_on_with_by_another_in_its_folder(submitted, head, tmp_path):
    first = submitted.read_status().job["id"]
    (tmp_path / "the runs/math_sft/it").mkdir(parents=True)
    (tmp_path / "the runs/math_sft/it/config.yaml").write_text("")
    words = [f"run={submitted.path}", "posttrain.detach=true", "trainer.total_training_steps=9"]
    assert launch.resume_run(words) == 0
    assert told(head) == [
        "-m", "posttrain_verl.launch", "run=math_sft/it", f"posttrain.runs_dir={tmp_path}/the runs",
        "trainer.total_training_steps=9", "data.train_files=[files/data/embedded/sft_train.parquet]",
        "data.val_files=[files/data/embedded/sft_val.parquet]"]  # fmt: skip
    status = submitted.read_status()
    assert (status.state, status.attempt) == (RUNNING, 2) and status.job["id"] != first


def test_a_job_whose_folder_is_gone_starts_afresh_and_says_so(submitted, head, tmp_path):
    assert launch.resume_run([f"run={submitted.path}", "posttrain.detach=true", "optim.lr=1e-3"]) == 0
    said = told(head)
    assert said[0] == "the folder of the run is gone here: starting afresh"
    assert {"recipe=math_sft", "posttrain.run_id=it", "++optim.lr=1e-3"} & set(said) and "run=math_sft/it" not in said


def test_a_job_that_runs_is_followed_and_no_second_one_submitted(folder, monkeypatch):
    monkeypatch.setattr(ray, "folder_job", lambda folder: Stub("running", None, {}))
    assert launch.resume_run([f"run={found(folder)}", "posttrain.detach=true"]) == 0
    assert folder.read_status().attempt == 1


def test_a_job_that_ended_well_while_nobody_followed_it_is_done(folder, monkeypatch):
    monkeypatch.setattr(ray, "folder_job", lambda folder: Stub("done", 0, ended("done")))
    assert launch.resume_run([f"run={found(folder)}"]) == 0
    with pytest.raises(InputError, match="is done"):
        launch.resume_run([f"run={found(folder)}"])


def test_a_job_that_the_cluster_has_forgotten_has_failed(submitted, head):
    status = ray.refresh_status(submitted)
    assert status.state == "failed" and "does not know job math_sft-it" in status.why


def test_a_job_whose_status_was_lost_is_still_found(submitted):
    named = submitted.read_status().job
    submitted.status.unlink()
    status = submitted.read_status()
    assert (status.state, status.job) == (RUNNING, named) and status.started > 0


def found(folder: RunFolder) -> Path:
    folder.config.write_text("")
    return folder.path
