"""`cluster=local`: the launch runs on this machine, or on the Ray cluster that `RAY_ADDRESS` names."""

from __future__ import annotations

from posttrain_verl.clusters import Cluster
from posttrain_verl.run import prepare, supervise
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.verl.composed import Composed


def submit_launch(composed: Composed) -> int:
    """Check the launch, build what is missing, and supervise the run. Raises InputError where it cannot run."""
    return supervise.hand_over(prepare.set_up_run(composed), composed.posttrain.detach)


def start_launch(composed: Composed, detached: bool) -> RunFolder:
    """Check and build as above, and run beside this process until the run has ended, or with `detached` on its own."""
    folder = prepare.set_up_run(composed)
    supervise.start_detached(folder) if detached else supervise.run_beside(folder)
    return folder


CLUSTER = Cluster(submit_launch, start=start_launch)
