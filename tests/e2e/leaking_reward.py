"""A reward that answers for the first step and then takes memory, until less than so many GiB of the machine's are left."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from posttrain_verl.watch.machine_rules import GIB, memory_left

FIRST_STEP = 16  # rollouts
MIB = 1 << 20
_lock = threading.Lock()
_kept: list[bytes] = []
_calls = 0


def compute_score(data_source: str, solution_str: str, ground_truth: str, **_: Any) -> dict[str, float]:
    global _calls
    _calls += 1
    if _calls > FIRST_STEP and "VERL_FILE_LOGGER_PATH" in os.environ:  # not while check tries it
        leak()
    text = solution_str.encode()
    return {"score": sum(text) / (256 * max(1, len(text)))}


def leak() -> None:
    """Writes when it had enough to `leaked` in the run folder, and never returns."""
    with _lock:
        while memory_left()[0].left / GIB >= float(os.environ["POSTTRAIN_TEST_UNTIL"]):
            _kept.append(b"0" * (64 * MIB))
        folder = Path(os.environ["VERL_FILE_LOGGER_PATH"]).parent
        (folder / "leaked").write_text(f"{os.getpid()} {time.time()}")
        time.sleep(3600)
