"""What VeRL's trainer does at the moment, for the status line and for the watch.

VeRL writes nothing to the log during a step. A thread beside the trainer's own looks at the names of the functions that run,
once in a while, and writes the stage to a small file when it changed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from posttrain_verl.run.folder import replace

STAGE_FILE = "POSTTRAIN_STAGE_FILE"  # the variable that names the file
SECONDS = 0.5
# VeRL 0.9.1's functions, outermost first on the stack (verl/trainer/ppo/v1/trainer_base.py, verl/trainer/sft_trainer_ray.py).
STAGES = {
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
_writing = threading.Lock()
_last: str | None = None  # the stage that no other follows
AROUND = {"_setup": "loading the model and starting the rollouts"}  # where no function of `STAGES` runs inside


def mark(stage: str) -> None:
    """Write that this stage began; nothing where no run asks for it, or on a node that does not have the run's folder."""
    path = os.environ.get(STAGE_FILE)
    if path:
        with _writing, suppress(OSError):
            if _last is None or stage == _last:
                replace(Path(path), json.dumps({"stage": stage, "since": time.time()}) + "\n")


def mark_last(stage: str) -> None:
    """As `mark`, and no other stage follows: the thread that looks at the stack may be about to write an older one."""
    global _last
    _last = stage
    mark(stage)


def count_rollouts(finished: int) -> None:
    """Write how many graded rollouts wait to be trained on; nothing where no run asks for it."""
    path = os.environ.get(STAGE_FILE)
    if path:
        with suppress(OSError):
            replace(_rollouts_beside(Path(path)), f"{finished}\n")


def read_rollouts(path: Path) -> int:
    """The count that `count_rollouts` wrote, beside the stage's file; 0 before the first."""
    with suppress(OSError, ValueError):
        return int(_rollouts_beside(path).read_text())
    return 0


def forget(path: Path) -> None:
    """Delete what an earlier attempt wrote."""
    for file in (path, _rollouts_beside(path)):
        file.unlink(missing_ok=True)


def _rollouts_beside(path: Path) -> Path:
    return path.with_name(".rollouts.txt")


def read(path: Path) -> tuple[str, float]:
    """The stage and when it began, in seconds since the epoch; empty before the first."""
    try:
        found = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return "", 0.0
    return found["stage"], found["since"]


def stage_of(functions: Iterable[str]) -> str:
    """The stage that a stack means; `functions` are the names on it, outermost first."""
    names = list(functions)
    return next((known[name] for known in (STAGES, AROUND) for name in names if name in known), "")


def follow_this_thread() -> None:
    """From now on, mark each stage that the calling thread enters."""
    thread = threading.get_ident()
    threading.Thread(target=_follow, args=(thread,), name="stages", daemon=True).start()


def _follow(thread: int) -> None:
    last = ""
    while True:
        stage = stage_of(_functions(thread))
        if stage and stage != last:
            mark(stage)
            last = stage
        time.sleep(SECONDS)


def _functions(thread: int) -> list[str]:
    """The names of the functions on the stack of a thread, outermost first."""
    frame, names = sys._current_frames().get(thread), []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names[::-1]
