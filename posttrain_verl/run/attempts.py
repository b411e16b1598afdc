"""A run from its first start to its end, started again by itself after what a restart heals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import OmegaConf

from posttrain_verl.run import environment, resume, roster, supervisor
from posttrain_verl.run.folder import DONE, FAILED, RunFolder, Status
from posttrain_verl.watch.watch import HEALED_BY_RESTART, UNATTENDED_RETRIES, Watch, settings_of

Report = Callable[[str], None]


def run(folder: RunFolder, variables: Mapping[str, str], report: Report, show: Report | None = None,
        unattended: bool = False) -> Status:  # fmt: skip
    """Train until the run is done, or failed by what a restart does not heal, or `posttrain.watch.retries` are used up.

    An `unattended` run is started again once where that setting is null. plan.json holds the settings of the watch; the next
    attempt of a folder that has attempts goes on where they ended.
    """
    plan = folder.read_plan()
    attempt = folder.read_status().attempt if folder.status.exists() else 1
    settings = settings_of(plan)
    retries = (settings or {}).get("retries")
    retries = (UNATTENDED_RETRIES if unattended else 0) if retries is None else int(retries)
    while True:
        watch = Watch(folder.events, settings, grader_of(folder))
        own = {**variables, "VERL_FILE_LOGGER_PATH": str(folder.metrics_of(attempt)),
               environment.STAGE_FILE: str(folder.stage_file)}  # fmt: skip
        status = supervisor.train(folder, own, report, watch, attempt, show)
        if status.state != FAILED or retries <= 0 or not is_healed_by_restart(status):
            return status
        retries -= 1
        left = f"starting again; {retries} more {'retry is' if retries == 1 else 'retries are'} left"
        watch.note("retry", status.last_step, "", status.why, left)
        report(f"failed: {status.why}; {left}")
        if is_complete(folder, resume.prepare(folder, report).step):
            return complete(folder)
        attempt = folder.read_status().attempt


def is_healed_by_restart(status: Status) -> bool:
    """Whether a failed run may do better when it is started again: what was lost comes back, what was wrong stays wrong."""
    return status.rule in HEALED_BY_RESTART if status.rule else roster.speaks_of_a_loss(status.why)


def is_complete(folder: RunFolder, step: int) -> bool:
    """Whether the checkpoint of `step` is the run's last: VeRL's SFT trainer would train one step too many from there."""
    total = folder.read_plan().get("total_steps")
    return total is not None and step >= total


def complete(folder: RunFolder) -> Status:
    """The status of a run whose last checkpoint was there already."""
    status = folder.read_status()
    status.state, status.ended, status.why = DONE, time.time(), ""
    folder.write_status(status)
    return status


def grader_of(folder: RunFolder) -> str:
    """The name of the reward function, as it stands on the stack of a process that grades."""
    name: Any = OmegaConf.select(OmegaConf.load(folder.config), "reward.custom_reward_function.name")
    return str(name or "")
