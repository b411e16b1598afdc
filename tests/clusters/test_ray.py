"""A run that is a job: what its folder says, and the exit code of the launch that follows it."""

import json
from pathlib import Path

import pytest

from posttrain_verl.clusters import ray
from posttrain_verl.clusters.job import Job
from posttrain_verl.run.folder import RUNNING, RunFolder, Status


class Stub(Job):
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
        (Stub("failed", 2, {}), 2, "failed", "Job entrypoint command failed with exit code 2", None),
        (Stub("failed", None, {}), 1, "failed", "Job entrypoint command failed with exit code 2", None),
        (Stub("running", None, ended("interrupted"), (KeyboardInterrupt(),)), 130, "interrupted", "", 7),
    ],
)
def test_how_a_job_ends(folder, job, code, state, why, step):
    said: list[str] = []
    assert ray._follow(job, folder, folder.read_status(), said.append) == code
    status = folder.read_status()
    assert (status.state, status.why, status.last_step) == (state, why, step)
    assert status.job == {"address": "http://h:1", "id": "it", "folder": "~/runs/it"} and status.ended
    assert folder.log.read_text() == job.left.get("log.txt", "step 1: loss 2\n")


def test_losing_the_head_ends_the_launch_and_not_the_run(folder):
    said: list[str] = []
    lost = Stub("running", None, {}, ("step 1: loss 2", ConnectionError("http://h:1 has been silent for 60 s")))
    assert ray._follow(lost, folder, folder.read_status(), said.append) == 1
    assert "the job may go on: python -m posttrain_verl.status" in said[-1]
    assert folder.read_status().state == RUNNING


def test_refresh_fetches_once_the_job_has_ended(folder, monkeypatch):
    monkeypatch.setattr(ray, "of_folder", lambda folder: Stub("running", None, {}))
    assert ray.refresh(folder).state == RUNNING
    monkeypatch.setattr(ray, "of_folder", lambda folder: Stub("done", 0, ended("done")))
    assert ray.refresh(folder).last_step == 7
    monkeypatch.setattr(ray, "of_folder", lambda folder: Stub("failed", 1, {}))
    assert ray.refresh(folder).state == "done", "what has ended is not asked for again"
