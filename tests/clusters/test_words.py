"""What the launch on the cluster is told."""

import pytest

from posttrain_verl.clusters import remote_launch
from posttrain_verl.terminal.problem import InputError


def test_the_users_words_go_along_but_for_those_of_the_place(composed):
    launch = composed("cluster=ray", "address=http://127.0.0.1:8265", "optim.lr=3e-6", "posttrain.detach=true",
                      "+posttrain.cluster.env.A=1", "hardware=cpu")  # fmt: skip
    there = remote_launch.remote_overrides(
        launch, "it", {"posttrain.runs_dir": "/shared/runs", "posttrain.data_dir": "files/data"}
    )
    assert there == ["recipe=math_sft", "base_model=tiny", "mix=embedded", "optim.lr=3e-6", "hardware=cpu",
                     "posttrain.watch.retries=1", "posttrain.run_id=it", "posttrain.runs_dir=/shared/runs",
                     "posttrain.data_dir=files/data"]  # fmt: skip


def test_address_is_short_for_the_key_of_the_cluster(composed):
    assert composed("cluster=ray", "address=http://h:1").posttrain.cluster.address == "http://h:1"


def test_words_are_quoted_for_the_shell():
    assert (
        remote_launch.launch_command("~/bin/python", ["a='x y'"])
        == """~/bin/python -m posttrain_verl.launch 'a='"'"'x y'"'"''"""
    )


@pytest.mark.parametrize("given", [[], ["hardware=auto"]])
def test_a_script_for_another_machine_needs_its_hardware_named(composed, given):
    with pytest.raises(InputError, match=r"hardware=8xh100"):
        remote_launch.require_named_hardware(composed("cluster=slurm", *given))
    remote_launch.require_named_hardware(composed("cluster=slurm", "hardware=cpu"))


@pytest.mark.parametrize("path", ["~/posttrain/runs", "/shared/my runs", "/a/b-1.2", "s3://x/y", "it's"])
def test_paths_are_read_back_as_they_were(composed, path):
    assert composed(f"posttrain.runs_dir={remote_launch.hydra_value(path)}").posttrain.runs_dir == path
