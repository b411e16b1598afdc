"""A launch on a cluster of two nodes that the user started: RAY_ADDRESS names it."""

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_two_nodes_train_and_roll_out_together(launch, cluster):
    variables = cluster.client | {"RAY_ADDRESS": cluster.address}
    run = launch("math_grpo", "trainer.nnodes=2", "trainer.n_gpus_per_node=1", variables=variables)
    assert not run.segments
    run.assert_done([1, 2])
    run.assert_rollouts_follow()
    shards = run.folder.checkpoints.glob("global_step_2/actor/model_world_size_2_rank_*.pt")
    assert len(list(shards)) == 2
