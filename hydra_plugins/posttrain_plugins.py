"""What Hydra finds of ours in this package: the launcher of a sweep, and the search path of the user's own options.

Hydra loads every module here whenever it composes, also for programs that are not ours. So this one imports nothing but Hydra.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
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


class OwnOptionsFirst(SearchPathPlugin):
    """Options that `compose` has registered win over the files of conf/, in our own compositions alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        ours = sys.modules.get("posttrain_verl.paths")
        folders = [each.path for each in search_path.get_path() if each.provider == "main"]
        if ours and folders == [str(ours.conf_dir())]:
            search_path.prepend(
                "schema", "structured://"
            )  # under another name Hydra would ask for a schema, and find itself
