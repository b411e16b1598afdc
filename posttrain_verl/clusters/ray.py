"""`cluster=ray`: the launch runs as a job on the head of a Ray cluster that is already up, and is followed from here.

There it is an ordinary `launch` with its own run folder below `posttrain.cluster.runs_dir`. The run folder here holds config,
plan, status (with Ray's job id), metrics and log. They are fetched through the Job API when the run has ended.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from posttrain_verl import own_reward, preflight
from posttrain_verl.clusters import Cluster, Jobs, ray_job, remote_launch
from posttrain_verl.clusters.ray_job import RayJob
from posttrain_verl.compose import compose
from posttrain_verl.paths import copy_files, write_atomically
from posttrain_verl.run import resume
from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED, RUNNING, RunFolder, Status
from posttrain_verl.run.follower import ALIVE
from posttrain_verl.run.output import step_of_line
from posttrain_verl.run.resume import ResumeRequest
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.composed import Composed

KIND = "ray"  # the name of this module
STOP_SECONDS = 60  # for the launch on the head to end its run; Ray's own default of 3 s leaves processes behind
REFUSED = 2  # the exit code of a launch that starts nothing
EXIT_CODES = {DONE: 0, INTERRUPTED: 130}


def submit_launch(composed: Composed) -> int:
    """Submit the launch, follow it to its end (unless `posttrain.detach`), and return the exit code it had there.

    Ctrl-C stops the job. Losing the head does not: the job may continue, and `status` finds it again.

    Raises:
        InputError: the head cannot be used, or the recipe has problems; nothing was submitted and nothing is left.
    """
    client = ray_job.connect_head(head_address(composed))
    preflight.raise_if_blocked(preflight.find_problems(composed), composed)
    folder = RunFolder.create(composed.run_dir())
    try:
        status = Status(RUNNING, started=time.time(), job=_submit_job(composed, client, folder))
        folder.write_config(composed.for_run(folder.path))
        own_reward.keep_in_run(own_reward.of_settings(composed.settings), folder.path)
        folder.write_plan({"recipe": composed.recipe, "stage": composed.stage.name, "overrides": composed.overrides,
                           "base_model": composed.posttrain.base_model.name})  # fmt: skip
        # plan.json becomes that of the launch there.
        write_atomically(folder.submission, json.dumps({"overrides": composed.overrides, "job": status.job}) + "\n")
        folder.write_status(status)
    except BaseException:
        shutil.rmtree(folder.path)
        raise
    return _attend_job(folder, status, composed.posttrain.detach)


def resume_job(folder: RunFolder, asked: ResumeRequest) -> int:
    """Resume the run of a job, and return the exit code: follow the job while it runs, else submit another.

    The new job continues in the run's folder on the cluster, from the newest whole checkpoint there. That folder may be gone,
    as on the disk of a head that was replaced. The job then starts the run afresh, and says so.

    Raises:
        InputError: the head cannot be used, the run is done, or what it was launched with is no longer here.
    """
    before, status = folder.read_status(), refresh_status(folder)
    if status.state == RUNNING:
        log.info("the job runs")
        return _attend_job(folder, status, asked.detach)
    if status.state == DONE != before.state:
        log.info(f"the job has ended well in the meantime; its files are in {folder.path}")
        return 0
    resume.require_resumable(folder, asked)
    submitted = folder.read_submission()
    composed = compose([*submitted["overrides"], *asked.own])
    preflight.raise_if_blocked(preflight.find_problems(composed, skip=("run_folder",)), composed)
    named = _submit_job(composed, folder_job(folder).client, folder, asked.own)
    write_atomically(folder.submission, json.dumps(submitted | {"job": named}) + "\n")
    folder.stop_note.unlink(missing_ok=True)
    folder.note_attempt()
    status = Status(RUNNING, started=time.time(), last_step=status.last_step, job=named, attempt=status.attempt + 1)
    folder.write_status(status)
    return _attend_job(folder, status, asked.detach)


def folder_job(folder: RunFolder) -> RayJob:
    """The job of a run folder whose status.json names one."""
    named = cast(dict[str, str], folder.read_status().job)
    return RayJob(named["address"], named["id"], named["folder"])


def refresh_status(folder: RunFolder) -> Status:
    """Ask the cluster for the status of the run: while it runs for its stage and step, and once it has ended for its files.

    Raises InputError where the cluster does not answer.
    """
    status, running = folder.read_status(), folder_job(folder)
    if status.state != RUNNING:
        return status
    if (state := running.state()) != RUNNING:
        return _conclude_job(running, folder, status, state)
    seen = _look_inside(running, folder, status)
    if seen != status:
        folder.write_status(seen)
    return seen


def _look_inside(running: RayJob, folder: RunFolder, status: Status) -> Status:
    """The status of a job that has not ended, with the stage and the step of its run.

    They come from the run's folder where this machine sees it, as that of a head on this machine or on shared storage. Else
    they come from the job's log.
    """
    if waits := running.waits_for():
        return replace(status, stage=f"queued: {waits}")
    if there := running.visible_folder(since=status.started):
        for file in (there.metrics, there.events):  # for the last step, the speed and the warnings
            if file.exists():
                write_atomically(folder.path / file.name, file.read_text())
        now = there.read_status()
        return replace(status, stage=now.stage or "starting", last_step=now.last_step, total_steps=now.total_steps)
    lines = [line for line in running.logs().splitlines() if line.strip()]
    steps = [step for line in lines if (step := step_of_line(line)) is not None]
    if not steps and not any(ALIVE in line for line in lines):
        return replace(status, stage=f"preparing: {lines[-1].strip()}" if lines else "preparing")
    stage = f"its log ends with `{lines[-1].strip()}`"
    return replace(status, stage=stage, last_step=steps[-1] if steps else status.last_step)


def count_at_once(member: Composed) -> int:
    """How many launches like this one the devices of the cluster hold; 1 at least."""
    nodes, devices = remote_launch.node_devices(member)
    return max(1, count_devices(head_address(member)) // (nodes * devices))


def count_devices(address: str) -> int:
    """How many GPUs (logical ones on the CPU backend) the nodes of the cluster have together."""
    ray_job.connect_head(address)
    from ray.util.state import list_nodes

    nodes = list_nodes(address=address, filters=[("state", "=", "ALIVE")], detail=True)
    return int(sum(node.resources_total.get("GPU", 0) for node in nodes))


def head_address(composed: Composed) -> str:
    """The address of the head, from the config or from Ray's own variable. Raises InputError where neither has it."""
    address = composed.posttrain.cluster.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        remedy = "add address=http://HOST:8265, that of its dashboard"
        problem = Problem("cluster=ray needs the address of a head", remedy)
        raise InputError(f"recipe '{composed.recipe}' cannot launch", [problem])
    return str(address)


def _submit_job(composed: Composed, client: Any, folder: RunFolder, resumed: list[str] | None = None) -> dict[str, str]:
    """Send the working directory and submit the job; return what status.json names it by.

    With `resumed`, which holds overrides for the next attempt, the job resumes the run if its folder is there.
    """
    run_id = folder.path.name
    cluster, run = composed.posttrain.cluster, f"{composed.recipe}/{run_id}"
    home, shell = f"{cluster.runs_dir}/{run}", remote_launch.shell_variables(composed)
    for line in shell.lines():
        log.info(line)
    variables = {
        "PYTHONUNBUFFERED": "1",
        "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # the driver repeats variables of the job, which Ray calls a conflict
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
        "POSTTRAIN_CACHE": f"{cluster.runs_dir}/cache",  # an embedded model is built where every node sees it
        **shell.sent,
        **remote_launch.string_mapping(composed, "env"),
    }
    with tempfile.TemporaryDirectory(prefix="posttrain-") as place:
        sent = remote_launch.pack_working_dir(composed, Path(place))
        replaced = {**sent, "posttrain.runs_dir": remote_launch.hydra_value(cluster.runs_dir)}
        overrides = remote_launch.remote_overrides(composed, run_id, replaced)
        command = remote_launch.launch_command(cluster.python, overrides)
        if resumed is not None:
            arguments = [f"run={run}", f"posttrain.runs_dir={cluster.runs_dir}", *resumed]
            arguments += remote_launch.sent_overrides(composed, sent)
            resume_it = f"exec {remote_launch.launch_command(cluster.python, arguments)}"
            afresh = f"echo 'the folder of the run is gone here: starting afresh'; exec {command}"
            command = f"if [ -e {ray_job.shell_quoted(home)}/config.yaml ]; then {resume_it}; fi; {afresh}"
        submission = client.submit_job(
            entrypoint=command,
            submission_id=f"{composed.recipe}-{run_id}-{secrets.token_hex(3)}",
            runtime_env={"working_dir": place, "env_vars": variables},
            metadata={"run": run, "submitted_from": os.uname().nodename, "folder_there": str(folder.path)},
        )
    return {"cluster": KIND, "address": str(client.get_address()), "id": submission, "folder": home}


def _attend_job(folder: RunFolder, status: Status, detach: bool) -> int:
    running = folder_job(folder)
    log.info(f"job {running.id} at {running.address}; run folder {folder.path} here, {running.folder} there")
    return 0 if detach else _follow_job(running, folder, status)


def _follow_job(running: RayJob, folder: RunFolder, status: Status) -> int:
    try:
        with folder.log.open("a") as file:
            for line in running.follow():
                log.info(line)
                file.write(line + "\n")
                file.flush()
        state = running.state()
    except KeyboardInterrupt:
        log.info(f"stopping job {running.id}")
        folder.note_stop("with Ctrl-C")
        state = running.stop(STOP_SECONDS + 30)
    except ConnectionError as error:
        log.info(f"{error}; the job may continue: python -m posttrain_verl.status run={folder.path}")
        return 1
    code = running.exit_code()
    _conclude_job(running, folder, status, state)
    return EXIT_CODES.get(state, code or 1)


def _conclude_job(running: RayJob, folder: RunFolder, status: Status, state: str) -> Status:
    """Fetch the run's files and write the last status: that of the run there, with its job as it is known here."""
    status.state, status.ended = state, running.end() or time.time()
    with tempfile.TemporaryDirectory(prefix="posttrain-") as place:
        fetched = RunFolder(Path(place))
        if running.fetch(fetched.path) and fetched.status.exists():
            there = fetched.read_status()
            status.why, status.last_step = there.why, there.last_step
            if (
                there.started and there.ended and running.exit_code() != REFUSED
            ):  # not the time in a queue, or until somebody asked
                status.started, status.ended, status.machine = there.started, there.ended, there.machine
            copy_files(fetched.path, folder.path, skip=["status.json"])
        # A launch that was refused wrote nothing. The reason in its folder is that of an older attempt.
        if state == FAILED and (not status.why or running.exit_code() == REFUSED):
            status.why = running.failure()
        if state == INTERRUPTED:
            status.why = folder.read_stop() or status.why or "the job was stopped on the cluster"
        status.stage = ""
    folder.write_status(status)
    return status


def stop_job(folder: RunFolder) -> str:
    """End the run there as Ctrl-C would, and return its state."""
    return folder_job(folder).stop()


def read_log(folder: RunFolder, follow: bool) -> Iterable[str]:
    """What the launch on the cluster has printed, and with `follow` what it prints until it ends."""
    job = folder_job(folder)
    return job.follow() if follow else job.logs().splitlines()


CLUSTER = Cluster(submit_launch, count_at_once=count_at_once, jobs=Jobs(resume_job, refresh_status, stop_job, read_log))
