"""Engines side by side, each with its share of the questions: one process a device here, one Ray task each on a cluster."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain_verl.cpu import warm
from posttrain_verl.evaluate.engine import Work, generate_answers
from posttrain_verl.evaluate.result import Answer
from posttrain_verl.machine import devices
from posttrain_verl.run import environment
from posttrain_verl.run.output import first_error
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, WorkFailed, warning, warning_lines


class EngineFailed(WorkFailed):
    """An engine ended before its work did; the message names its error and its log. Without an answer nothing resumes."""

    def __init__(self, message: str, resumes: bool = True):
        super().__init__(message)
        self.resumes = resumes


@dataclass(frozen=True)
class Layout:
    """`replicas` engines of `tensor_parallel` devices each, of `devices` that there are; none `on_cpu`.

    `on_ray` when they are tasks of the cluster at RAY_ADDRESS.
    """

    on_cpu: bool
    devices: int
    replicas: int
    tensor_parallel: int
    on_ray: bool


def plan_layout(replicas: int | None, tensor_parallel: int) -> Layout:
    """As many engines as the devices of the machine, or of the Ray cluster at RAY_ADDRESS, have room for; one on a CPU.

    Raises:
        InputError: the cluster has too few devices for the engines asked for, or this environment is for GPUs and can use
            none of those that are here.
    """
    on_ray = bool(os.environ.get("RAY_ADDRESS"))
    if on_ray:
        on_cpu, count = _cluster_devices(tensor_parallel * (replicas or 1))
    else:
        machine = devices.detect_machine()
        if (found := machine.trouble) is not None:
            if machine.facts.build.cuda:  # an environment for GPUs has no vLLM that runs without them
                raise InputError("nowhere to evaluate", [found])
            for line in warning_lines([warning(found.what, found.remedy.splitlines()[0])]):
                log.info(line)
        on_cpu, count = _local_devices()
    return Layout(on_cpu, count, replicas or max(1, count // tensor_parallel), tensor_parallel, on_ray)


def _local_devices() -> tuple[bool, int]:
    """Whether this machine has no accelerator, and how many devices it has."""
    machine = devices.detect_machine()
    return machine.name == "cpu", machine.devices


def stream_answers(work: Work, plan: Layout, log_file: Path) -> Iterator[Answer]:
    """The answers to everything asked, from all engines, as they come. What the engines print goes to `log_file`.

    Raises:
        EngineFailed: an engine ended early.
    """
    shares = [dataclasses.replace(work, asked=work.asked[first :: plan.replicas]) for first in range(plan.replicas)]
    shares = [share for share in shares if share.asked]
    with ExitStack() as stack, log_file.open("wb") as out:
        if plan.on_ray:
            streams = _on_ray(shares, plan)
        else:
            engines = [_engine_process(share, plan, place, out) for place, share in enumerate(shares)]
            streams = [stack.enter_context(engine) for engine in engines]
        count = 0
        try:
            for answer in merge_streams(streams):
                count += 1
                yield answer
        except EngineFailed as error:
            out.flush()
            said = f": {found}" if (found := first_error(log_file)) else ""
            raise EngineFailed(f"{error}{said}; the log is {log_file}", resumes=count > 0) from error


def merge_streams(streams: list[Iterator[Answer]]) -> Iterator[Answer]:
    """The items of all the streams as they come. An exception in one of them is raised here."""
    came: queue.SimpleQueue[Answer | BaseException | None] = queue.SimpleQueue()

    def drain(stream: Iterator[Answer]) -> None:
        try:
            for item in stream:
                came.put(item)
            came.put(None)
        except Exception as error:  # crosses the thread, and is raised below
            came.put(error)

    for stream in streams:
        threading.Thread(target=drain, args=(stream,), daemon=True).start()
    left = len(streams)
    while left:
        item = came.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            left -= 1
        else:
            yield item


@contextmanager
def _engine_process(work: Work, plan: Layout, place: int, output: Any) -> Iterator[Iterator[Answer]]:
    """An engine in a process of its own, which ends when the block does."""
    command = [warm.python(), "-m", "posttrain_verl.evaluate.engine"]
    variables = {**os.environ, **_engine_variables(work, plan), **_device_variables(plan, place)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
                               env=variables, start_new_session=True)  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        with suppress(BrokenPipeError):  # it ended already, which its reader reports
            process.stdin.write(json.dumps(asdict(work)) + "\n")
            process.stdin.flush()
        yield _read_answers(process)
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # last: it waits for the thread that reads it


def _read_answers(process: subprocess.Popen[str]) -> Iterator[Answer]:
    assert process.stdout is not None
    for line in process.stdout:
        if line == "done\n":
            return
        yield Answer(**json.loads(line))
    raise EngineFailed(f"an engine ended early with exit code {process.wait()}")


def _engine_variables(work: Work, plan: Layout) -> dict[str, str]:
    variables = environment.process_variables("cpu" if plan.on_cpu else "gpu", local_model=Path(work.model).is_dir())
    return variables | ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if plan.on_cpu else {})


def _device_variables(plan: Layout, place: int) -> dict[str, str]:
    """The variables that give one engine its share of the devices of this machine, or of its cores."""
    if plan.on_cpu:
        mine = sorted(os.sched_getaffinity(0))[place :: plan.replicas]
        return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, mine))} if plan.replicas > 1 and mine else {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(plan.devices)))
    first = place * plan.tensor_parallel
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible.split(",")[first : first + plan.tensor_parallel])}


def _cluster_devices(needed: int) -> tuple[bool, int]:
    """As `_local_devices`, for the Ray cluster. A node with devices is asked, since this one may have none."""
    import ray

    if not ray.is_initialized():
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.WARNING)
    devices = int(ray.cluster_resources().get("GPU", 0))
    if devices < needed:
        what = f"the Ray cluster at {os.environ['RAY_ADDRESS']} has {devices} devices, and {needed} are needed"
        remedy = "lower replicas= or tensor_parallel=, or unset RAY_ADDRESS"
        raise InputError("nowhere to evaluate", [Problem(what, remedy)])
    on_cpu, _ = ray.get(ray.remote(num_gpus=1, num_cpus=1)(_local_devices).remote())
    return on_cpu, devices


def _on_ray(shares: list[Work], plan: Layout) -> list[Iterator[Answer]]:
    """One task for each engine. Ray finds the nodes, and the model must lie where each of them sees it."""
    import ray

    task = ray.remote(num_gpus=plan.tensor_parallel, num_cpus=1, max_retries=0)(generate_answers)
    task = task.options(num_returns="streaming", runtime_env={"env_vars": _engine_variables(shares[0], plan)})

    def results(work: Work) -> Iterator[Answer]:
        try:
            for reference in task.remote(work):
                yield ray.get(reference)
        except ray.exceptions.RayError as error:
            raise EngineFailed(f"an engine's Ray task failed: {error}") from error

    return [results(share) for share in shares]
