"""`cluster=local`: the launch runs on this machine, or on the Ray cluster that `RAY_ADDRESS` names."""

from __future__ import annotations

from posttrain_verl.clusters import Cluster
from posttrain_verl.run import prepare, supervise
from posttrain_verl.verl.composed import Composed


def submit_launch(composed: Composed) -> int:
    """Check the launch, build what is missing, and supervise the run. Raises InputError where it cannot run."""
    return supervise.hand_over(prepare.set_up_run(composed), composed.posttrain.detach)


CLUSTER = Cluster(submit_launch)
