"""Hydra's launcher of a sweep: Hydra finds it in this package, and its sweepers (basic, Optuna) hand it their batches.

Hydra loads every module here whenever it composes, so this one imports nothing but Hydra.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

NAME = "members"


class MembersLauncher(Launcher):
    """Gives the batches of overrides to the sweep's task function, which starts a process for each member."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._run, self._folder = task_function, Path(config.hydra.sweep.dir)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self._run(self._folder, [list(overrides) for overrides in job_overrides])  # type: ignore[call-arg]


ConfigStore.instance().store(
    group="hydra/launcher", name=NAME, node={"_target_": f"{__name__}.{MembersLauncher.__name__}"}
)
