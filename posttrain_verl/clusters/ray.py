"""`cluster=ray`: the launch runs as a job on the head of a Ray cluster that is already up, and is followed from here.

There it is an ordinary `launch` with a run folder of its own below `posttrain.cluster.runs_dir`. The run folder here
holds config, plan, status (with Ray's job id), metrics and log, fetched through the Job API when the run has ended.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain_verl import preflight
from posttrain_verl.clusters import job, parcel, variables, words
from posttrain_verl.clusters.job import Job
from posttrain_verl.compose import Composed, compose
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.run import resume
from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED, RUNNING, RunFolder, Status, replace
from posttrain_verl.run.resume import Words

Say = Callable[[str], None]
STOP_SECONDS = 60  # for the launch on the head to end its run; Ray's own default of 3 s leaves processes behind
SUBMISSION = "submission.json"  # the words of the launch here; plan.json becomes that of the launch there
AFRESH = "'the folder of the run is gone here: starting afresh'"
REFUSED = 2  # the exit code of a launch that starts nothing
EXIT_CODES = {DONE: 0, INTERRUPTED: 130}


def submit(composed: Composed, say: Say, dry_run: bool = False) -> int:
    """Submit the launch, follow it to its end (unless `posttrain.detach`), and return the exit code it had there.

    Ctrl-C stops the job. Losing the head does not: the job may go on, and `status` finds it again.

    Raises:
        InputError: the head cannot be used, or the recipe has problems; nothing was submitted and nothing is left.
    """
    if dry_run:
        raise InputError("nothing to print", [Problem("cluster=ray submits at once: there is no script", "")])
    client = job.connect(address_of(composed))
    preflight.require(preflight.check(composed), composed)
    for line in variables.of_shell(composed).lines():
        say(line)
    folder = RunFolder.create(composed.run_dir())
    try:
        status = Status(RUNNING, started=time.time(), job=_submit(composed, client, folder.path.name))
        folder.write_config(composed.for_run(folder.path))
        folder.write_plan({"recipe": composed.recipe, "stage": composed.stage, "overrides": composed.overrides})
        replace(folder.path / SUBMISSION, json.dumps({"overrides": composed.overrides}) + "\n")
        folder.write_status(status)
    except BaseException:
        shutil.rmtree(folder.path)
        raise
    return _attend(folder, status, composed.posttrain.detach, say)


def go_on(folder: RunFolder, asked: Words, say: Say) -> int:
    """Go on with the run of a job, and return the exit code: follow the job while it runs, else submit another.

    The new job goes on in the run's folder on the cluster, from the newest whole checkpoint there. Where that folder is
    gone, as on the disk of a head that was replaced, it starts the run afresh, and says so.

    Raises:
        InputError: the head cannot be used, the run is done, or what it was launched with is no longer here.
    """
    before, status = folder.read_status(), refresh(folder)
    if status.state == RUNNING:
        say("the job runs")
        return _attend(folder, status, asked.detach, say)
    if status.state == DONE != before.state:
        say(f"the job has ended well in the meantime; its files are in {folder.path}")
        return 0
    resume.require_resumable(folder, asked)
    composed = compose([*json.loads((folder.path / SUBMISSION).read_text())["overrides"], *asked.own])
    preflight.require(preflight.check(composed, skip=("run_folder",)), composed)
    for line in variables.of_shell(composed).lines():
        say(line)
    named = _submit(composed, of_folder(folder).client, folder.path.name, asked.own)
    status = Status(RUNNING, started=time.time(), last_step=status.last_step, job=named, attempt=status.attempt + 1)
    folder.write_status(status)
    return _attend(folder, status, asked.detach, say)


def of_folder(folder: RunFolder) -> Job:
    """The job of a run folder whose status.json names one."""
    named: Any = folder.read_status().job
    return Job(**named)


def refresh(folder: RunFolder) -> Status:
    """What is known of the run now, asked of the cluster; once it has ended its files are fetched into `folder`.

    Raises:
        InputError: the cluster does not answer.
    """
    status, running = folder.read_status(), of_folder(folder)
    if status.state != RUNNING or (state := running.state()) == RUNNING:
        return status
    return _conclude(running, folder, status, state)


def devices(address: str) -> int:
    """How many GPUs (logical ones on the CPU backend) the nodes of the cluster have together."""
    job.connect(address)
    from ray.util.state import list_nodes

    nodes = list_nodes(address=address, filters=[("state", "=", "ALIVE")], detail=True)
    return int(sum(node.resources_total.get("GPU", 0) for node in nodes))


def address_of(composed: Composed) -> str:
    """The address of the head, from the config or from Ray's own variable.

    Raises:
        InputError: there is neither.
    """
    address = composed.posttrain.cluster.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        problem = Problem(
            "cluster=ray needs the address of a head", "add address=http://HOST:8265, that of its dashboard"
        )
        raise InputError(f"recipe '{composed.recipe}' cannot launch", [problem])
    return str(address)


def _submit(composed: Composed, client: Any, run_id: str, goes_on: list[str] | None = None) -> dict[str, str]:
    """Send the parcel and submit the job; return what status.json names it by.

    With `goes_on`, words for the next attempt of a run, the job goes on with the run if its folder is there.
    """
    cluster = composed.posttrain.cluster
    home = f"{cluster.runs_dir}/{composed.recipe}/{run_id}"
    with tempfile.TemporaryDirectory(prefix="posttrain-") as place:
        sent = parcel.pack(composed, Path(place))
        there = words.there(composed, run_id, {**sent, "posttrain.runs_dir": words.value(cluster.runs_dir)})
        command = words.command(cluster.python, there)
        if goes_on is not None:
            run = [f"run={composed.recipe}/{run_id}", f"posttrain.runs_dir={cluster.runs_dir}"]
            again = words.command(cluster.python, [*run, *goes_on, *parcel.verl_keys(composed, sent)])
            command = f"if [ -e {job.quoted(home)}/config.yaml ]; then exec {again}; fi; echo {AFRESH}; exec {command}"
        submission = client.submit_job(
            entrypoint=command,
            submission_id=f"{composed.recipe}-{run_id}-{secrets.token_hex(3)}",
            runtime_env={"working_dir": place, "env_vars": _variables(composed)},
            metadata={"run": f"{composed.recipe}/{run_id}"},
        )
    return {"address": str(client.get_address()), "id": submission, "folder": home}


def _variables(composed: Composed) -> dict[str, str]:
    cluster = composed.posttrain.cluster
    return {
        "PYTHONUNBUFFERED": "1",
        "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # the driver repeats variables of the job, which Ray calls a conflict
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
        "POSTTRAIN_CACHE": f"{cluster.runs_dir}/cache",  # an embedded model is built where every node sees it
        **variables.of_shell(composed).sent,
        **words.setting(composed, "env"),
    }


def _attend(folder: RunFolder, status: Status, detach: bool, say: Say) -> int:
    running = of_folder(folder)
    say(f"job {running.id} at {running.address}; run folder {folder.path} here, {running.folder} there")
    return 0 if detach else _follow(running, folder, status, say)


def _follow(running: Job, folder: RunFolder, status: Status, say: Say) -> int:
    try:
        with folder.log.open("a") as log:
            for line in running.follow():
                say(line)
                log.write(line + "\n")
                log.flush()
        state = running.state()
    except KeyboardInterrupt:
        say(f"stopping job {running.id}")
        state = running.stop(STOP_SECONDS + 30)
    except ConnectionError as error:
        say(f"{error}; the job may go on: python -m posttrain_verl.status run={folder.path}")
        return 1
    code = running.exit_code()
    _conclude(running, folder, status, state)
    return EXIT_CODES.get(state, code or 1)


def _conclude(running: Job, folder: RunFolder, status: Status, state: str) -> Status:
    """Fetch the run's files and write the last status: that of the run there, with the job of here."""
    status.state, status.ended = state, time.time()
    with tempfile.TemporaryDirectory(prefix="posttrain-") as place:
        fetched = RunFolder(Path(place))
        if running.fetch(fetched.path) and fetched.status.exists():
            there = fetched.read_status()
            status.why, status.last_step = there.why, there.last_step
            shutil.copytree(place, folder.path, ignore=shutil.ignore_patterns("status.json"), dirs_exist_ok=True)
        if state == FAILED and (
            not status.why or running.exit_code() == REFUSED
        ):  # then that run's word is an older one
            status.why = running.message()
    folder.write_status(status)
    return status
