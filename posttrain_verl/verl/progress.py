"""What VeRL's trainer does at the moment, for the status line and for the watch.

VeRL writes nothing to the log during a step. A thread beside the trainer's own looks at the names of the functions that run,
once in a while, and writes the activity to a small file when it changed.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import re
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from posttrain_verl.paths import write_atomically

ACTIVITY_FILE = "POSTTRAIN_ACTIVITY_FILE"  # the variable that names the file
POLL_SECONDS = 0.5
# VeRL 0.9.1's functions, outermost first on the stack (verl/trainer/ppo/v1/trainer_base.py, verl/trainer/sft_trainer_ray.py).
ACTIVITIES = {
    "_load_checkpoint": "loading a checkpoint",
    "load_checkpoint": "loading a checkpoint",
    "_save_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "_validate": "validation",
    "infer_batch": "validation",
    "update_weights": "weight sync",
    "sample": "generation",
    "_compute_reward_colocate": "reward",
    "_compute_old_log_prob": "log-prob",
    "_compute_ref_log_prob": "log-prob",
    "_compute_values": "log-prob",
    "_compute_advantage": "update",
    "_update_critic": "update",
    "_update_actor": "update",
    "train_batch": "update",
    "_init_dataloader": "loading the data",
    "_build_dataset": "loading the data",
    "_build_engine": "loading the model",
    "init_agent_loop_manager": "starting the rollouts",
    "wait_for_devices": "waiting for devices",
    "start_ray": "starting Ray",
}
# What VeRL logs where a reward or an agent loop raises for an answer: before the traceback (agent_loop_tq.py), or with the error
# in the same line (reward_manager/limited.py).
FAILED_ANSWER = re.compile(r"Error in _run_prompt|Reward computation (?:failed|timed out) .*")
TRAINERS = ("TaskRunner", "TaskRunnerV1")  # Ray's names of the actors that hold a trainer
ROLLOUT_SERVER = "HttpServer"  # the end of the names of those that hold a rollout engine
_writing = threading.Lock()
_last: str | None = None  # the activity that no other follows
OUTER_ACTIVITIES = {  # where no function of `ACTIVITIES` runs inside; SFT waits for the result of its calls in `fit` itself
    "_setup": "loading the model and starting the rollouts",
    "fit": "training",
}


def mark_activity(activity: str) -> None:
    """Write that this activity began; nothing where no run asks for it, or on a node that does not have the run's folder."""
    path = os.environ.get(ACTIVITY_FILE)
    if path:
        with _writing, suppress(OSError):
            if _last is None or activity == _last:
                write_atomically(Path(path), json.dumps({"activity": activity, "since": time.time()}) + "\n")


def mark_last_activity(activity: str) -> None:
    """As `mark_activity`, and no other follows: the thread that looks at the stack may be about to write an older one."""
    global _last
    _last = activity
    mark_activity(activity)


def write_rollout_count(finished: int) -> None:
    """Write how many graded rollouts wait to be trained on; nothing where no run asks for it."""
    path = os.environ.get(ACTIVITY_FILE)
    if path:
        with suppress(OSError):
            write_atomically(_rollouts_file(Path(path)), f"{finished}\n")


def read_rollout_count(path: Path) -> int:
    """The count that `write_rollout_count` wrote, beside the activity's file; 0 before the first."""
    with suppress(OSError, ValueError):
        return int(_rollouts_file(path).read_text())
    return 0


def delete_progress(path: Path) -> None:
    """Delete what an earlier attempt wrote."""
    for file in (path, _rollouts_file(path)):
        file.unlink(missing_ok=True)


def _rollouts_file(path: Path) -> Path:
    return path.with_name(".rollouts.txt")


def read_activity(path: Path) -> tuple[str, float]:
    """The activity and when it began, in seconds since the epoch; empty before the first."""
    try:
        found = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return "", 0.0
    return found["activity"], found["since"]


def activity_from_stack(functions: Iterable[str]) -> str:
    """The activity that a stack means; `functions` are the names on it, outermost first."""
    names = list(functions)
    return next((known[name] for known in (ACTIVITIES, OUTER_ACTIVITIES) for name in names if name in known), "")


def follow_this_thread() -> None:
    """From now on, mark each activity that the calling thread enters."""
    thread = threading.get_ident()
    threading.Thread(target=_follow_thread, args=(thread,), name="activities", daemon=True).start()


def _follow_thread(thread: int) -> None:
    last = ""
    with open(os.memfd_create("stacks"), "r+b", buffering=0) as scratch:
        while True:
            activity = activity_from_stack(_stack_of(thread, scratch))
            if activity and activity != last:
                mark_activity(activity)
                last = activity
            time.sleep(POLL_SECONDS)


_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)")
_FUNCTION = re.compile(r", line \d+ in (\S+)")


def _stack_of(thread: int, scratch: io.FileIO) -> list[str]:
    """The names on a thread's stack, outermost first; at most the 100 innermost.

    Written by faulthandler, which holds the interpreter while it looks. Frames that are walked in Python may be taken down
    meanwhile by the thread that runs them: a driver has ended by SIGSEGV in `frame.f_code`."""
    scratch.seek(0)
    scratch.truncate()
    faulthandler.dump_traceback(scratch, all_threads=True)
    scratch.seek(0)
    found, inside = list[str](), False
    for line in scratch.read().decode(errors="replace").splitlines():
        if begun := _THREAD.match(line):
            inside = int(begun.group(1), 16) == thread
        elif inside and (function := _FUNCTION.search(line)):
            found.append(function.group(1))
    return found[::-1]
