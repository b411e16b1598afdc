"""Runs from a program of the user's: `api.launch` and what its `Run` can be asked, with drivers of the test's own."""

import asyncio
import io
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from driven import FOREVER, alive, trains, wait_for
from omegaconf import OmegaConf

from posttrain_verl import api, clusters
from posttrain_verl.run import prepare, supervise
from posttrain_verl.run.folder import RunFolder, Status

STEPS_TO_3 = """
for step in (1, 2, 3):
    log(step, **{"train/loss": 1.0 / step})
"""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def launch(prepared, monkeypatch):
    """`launch(program, *words, **how)` launches a run whose driver is the program."""

    def run(program, *words, **how):
        folder = prepared(program)
        monkeypatch.setattr(prepare, "set_up_run", lambda composed: folder)
        return api.launch(api.compose("recipe=demo_sft", "hardware=cpu", "base_model=tiny", *words), **how)

    return run


@pytest.fixture
def logged():
    """The lines of progress, as a program of the user's gets them."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("posttrain_verl")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_a_launch_returns_when_the_run_has_ended_and_prints_nothing(launch, logged, capfd):
    before = [signal.getsignal(number) for number in SIGNALS]
    run = launch(STEPS_TO_3)
    status = run.status()
    assert (run.state, status.step, status.attempts, status.why, status.advice) == ("done", 3, 1, "", "")
    assert status.metrics == {"train/loss": pytest.approx(1 / 3)} and status.seconds > 0
    assert run.metrics() == {step: {"train/loss": pytest.approx(1 / step)} for step in (1, 2, 3)}
    assert str(status) == "recipe/it done at step 3" and repr(run) == f"Run(path={run.path!r})"
    assert capfd.readouterr() == ("", "")
    assert [line for line in logged if line.startswith("step ")] == [
        "step 1: loss 1",
        "step 2: loss 0.5",
        "step 3: loss 0.3333",
    ]
    assert logged[-1].startswith("done after 3 steps")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_run_that_fails_raises_nothing_and_says_why(launch, capfd):
    run = launch(STEPS_TO_3 + "raise ValueError('no such layer')")
    status = run.status()
    assert (status.state, status.step) == ("failed", 3) and status.has_ended
    assert "ValueError: no such layer" in status.why
    assert str(run.path / "log.txt") in status.advice and "resume()" in status.advice
    assert "ValueError: no such layer" in str(status)
    assert capfd.readouterr() == ("", "")


def test_a_detached_run_is_waited_for_stopped_and_resumed(launch, python, monkeypatch, logged, capfd):
    began = time.monotonic()
    run = launch(FOREVER, detach=True)
    wait_for(lambda: trains(RunFolder(run.path)))
    assert run.state == "running" and not run.status().has_ended and run.status().advice == ""
    assert run.wait(seconds=1).state == "running" and time.monotonic() - began < 60
    assert "step 1: loss 1" in logged
    assert api.run("recipe/it", run.path.parents[1]) == run
    with pytest.raises(api.InputError, match="is running"):
        run.resume()
    stopped = run.stop()
    assert (
        (stopped.state, stopped.step) == ("interrupted", 1) and "`stop`" in stopped.why and "resume()" in stopped.advice
    )
    python(STEPS_TO_3)  # the driver of the next attempt
    assert run.resume(detach=True).wait(seconds=60).state == "done"
    assert run.status().attempts == 2
    with pytest.raises(api.InputError, match="is done"):
        run.resume()
    assert capfd.readouterr() == ("", "")


def test_detach_among_the_words_is_meant(launch):
    run = launch(FOREVER, "detach=true")
    wait_for(lambda: run.state == "running")
    run.stop()


def test_a_run_that_cannot_start_says_where_to_look(prepared):
    folder = prepared("pass")
    folder.write_plan({})
    supervise.start_detached(folder)
    status = api.Run(folder.path).status()
    assert status.state == "failed" and status.why.startswith("never started")
    assert "launch.txt says why" in status.advice
    assert "KeyError" in (folder.path / "launch.txt").read_text()


def test_a_queued_launch_waits_until_the_run_writes_its_files(tmp_path):
    folder = RunFolder(tmp_path / "math_grpo" / "queued")
    folder.note_queued("cluster=slurm")
    run = api.Run(folder.path)
    for _ in range(2):
        status = run.status()
        assert (status.state, status.has_ended, status.advice) == ("waiting", False, "")
        assert status.why == "in the queue of cluster=slurm" and run.metrics() == {}
        for ask in (run.stop, run.resume, run.weights):
            with pytest.raises(api.InputError, match="has not begun"):
                ask()
        folder.path.mkdir(exist_ok=True)  # the job makes it before it writes the config
    folder.write_config(OmegaConf.create({}))
    assert run.state != "waiting" and not folder.queue_note.exists()


def test_a_run_whose_folder_is_gone_raises(launch, tmp_path):
    run = launch(STEPS_TO_3)
    run.path.rename(tmp_path / "moved")
    asks = [run.status, run.wait, run.metrics, run.stop, run.resume, run.weights, api.Run(tmp_path).status]
    for ask in asks:
        with pytest.raises(api.InputError, match=r"(is gone|has no config\.yaml)\n.*named by its new folder"):
            ask()
    assert api.Run(tmp_path / "moved").state == "done"


def test_a_run_is_named_by_a_string_too_and_stays_the_same_in_another_folder(launch, monkeypatch, tmp_path):
    run = launch(STEPS_TO_3)
    monkeypatch.chdir(run.path.parent)
    named = api.Run("it")
    monkeypatch.chdir(tmp_path)
    assert named == run and named.state == "done"


class Head:
    """A cluster that has the run as a job, and answers where `answers` says so."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def refresh_status(self, folder):
        if not (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]):
            raise api.InputError("the Ray cluster at http://h:1 cannot be used", [])
        return replace(folder.read_status(), state="running" if self.answers[1:] else "done")


@pytest.fixture
def job(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "math_sft" / "job")
    folder.write_config(OmegaConf.create({}))
    folder.write_status(Status("running", started=1.0, job={"address": "http://h:1", "id": "x", "folder": "~/x"}))
    monkeypatch.setattr(api, "JOB_SECONDS", 0.01)

    def of(*answers):
        head = Head(*answers)
        monkeypatch.setattr(clusters, "jobs_of", lambda status: head if status.job else None)
        return folder

    return of


def test_a_missed_answer_of_a_cluster_does_not_end_the_waiting(job):
    folder = job(True, False, True, False, False, True)
    assert api.Run(folder.path).wait().state == "done"
    assert api._attend(job(False, True), detached=False).state == "done", "nor that of a launch that blocks"


def test_a_cluster_that_stays_silent_ends_the_waiting_and_not_the_job(job, monkeypatch):
    run = api.Run(job(False).path)
    seen = run.wait(seconds=0)
    assert seen.state == "running" and "does not answer; this is what was seen last" in seen.why
    monkeypatch.setattr(clusters, "LOST_SECONDS", 0.1)
    with pytest.raises(api.WorkFailed, match=r"silent for 0\.1 s, and the job continues there"):
        run.wait()


def test_a_run_without_a_checkpoint_does_not_promise_one(launch):
    run = launch("raise ValueError('no')")
    assert "continues from the start, without a checkpoint" in run.status().advice
    (run.path / "checkpoints/global_step_3").mkdir(parents=True)
    assert "continues from the last whole checkpoint" in run.status().advice


def test_a_notebook_launches_inside_its_event_loop(launch, monkeypatch):
    class WithoutDescriptor(io.StringIO):
        def fileno(self):
            raise io.UnsupportedOperation("fileno")

    monkeypatch.setattr(sys, "stdout", WithoutDescriptor())
    monkeypatch.setattr(sys, "stderr", WithoutDescriptor())

    async def cell():
        return launch(STEPS_TO_3)

    assert asyncio.run(cell()).state == "done"
    assert sys.stdout.getvalue() == sys.stderr.getvalue() == ""


def test_a_thread_launches(launch):
    found = []
    thread = threading.Thread(target=lambda: found.append(launch(STEPS_TO_3).state))
    thread.start()
    thread.join(timeout=60)
    assert found == ["done"]


# A program of the user's, which says that it was interrupted and goes on.
PROGRAM = """
import pathlib, sys
from posttrain_verl.run import supervise
from posttrain_verl.run.folder import RunFolder, Status
folder = RunFolder(pathlib.Path(sys.argv[1]))
try:
    supervise.run_beside(folder)
except KeyboardInterrupt:
    print("interrupted", folder.read_status().state)
"""


@pytest.fixture
def program(prepared):
    folder = prepared(FOREVER)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, folder.path], stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: trains(folder), 60)
        yield process, folder
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_ends_the_run_and_reaches_the_program(program):
    process, folder = program
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert said == "interrupted interrupted\n" and process.returncode == 0
    assert folder.read_status().why == "Ctrl-C"


def test_a_run_ends_with_the_program_that_launched_it(program):
    process, folder = program
    driver = folder.read_status().pid
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: folder.read_status().state == "interrupted", 60)
    assert "the end of the program that launched it" in folder.read_status().why
    wait_for(lambda: not alive(driver) and not alive(folder.read_status().supervisor), 60)


def test_the_supervisor_beside_a_program_ends_in_silence(launch, logged):
    """Its thread that waits for the program's end must not hold a lock when the interpreter ends."""
    assert launch(STEPS_TO_3).state == "done"
    assert logged[-1].startswith("done after 3 steps"), logged[-3:]


def test_a_launch_that_cannot_run_raises_all_its_problems_and_leaves_no_folder(tmp_path):
    composed = api.compose("recipe=demo_sft", "hardware=cpu", "base_model=tiny", "optim.lrr=1", "data.train_batch_size=0",
                           f"runs_dir={tmp_path}/runs", f"data_dir={tmp_path}/data")  # fmt: skip
    with pytest.raises(api.InputError) as refused:
        api.launch(composed)
    assert "did you mean optim.lr?" in [problem.remedy for problem in refused.value.problems]
    assert not (tmp_path / "runs").exists()


def test_a_run_without_a_checkpoint_has_no_weights(prepared):
    folder = prepared("pass")
    with pytest.raises(api.InputError, match="no checkpoint"):
        api.Run(folder.path).weights()


def test_the_status_of_an_older_version_is_read(prepared):
    folder = prepared("pass")
    folder.status.write_text(json.dumps({"state": "done", "no_such_field": 1}))
    assert api.Run(folder.path).status().why.startswith("status.json cannot be read")
