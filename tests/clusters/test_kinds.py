"""A kind of cluster is one module of `clusters` and one file of conf/cluster; the verbs know neither."""

import sys
from types import ModuleType

import pytest
import yaml

from posttrain_verl import clusters, paths, preflight
from posttrain_verl.clusters import Cluster
from posttrain_verl.terminal.problem import InputError

FILES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((paths.conf_dir() / "cluster").glob("*.yaml"))}


@pytest.mark.parametrize("option", FILES)
def test_each_file_names_a_module(option):
    assert clusters.cluster_named(FILES[option]["name"]) and FILES[option]["name"] == option


def test_only_the_cluster_of_this_machine_has_nothing_checked_elsewhere():
    """`preflight.machine` knows by this key that a launch is planned for another machine."""
    assert {option for option, file in FILES.items() if "checked_there" not in file} == {"local"}


def test_a_module_is_all_that_a_new_kind_needs(composed, monkeypatch, capsys):
    submitted = []
    toy = ModuleType("posttrain_verl.clusters.toy")
    toy.CLUSTER = Cluster(lambda composed: submitted.append(composed) or 3, lambda composed: f"#!{composed.recipe}\n")
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    launch = composed("cluster=slurm", "hardware=8xh100", "posttrain.cluster.name=toy")
    assert clusters.submit_launch(launch) == 3 and submitted == [launch]
    assert clusters.submit_launch(launch, dry_run=True) == 0 and len(submitted) == 1
    assert capsys.readouterr().out == f"#!{launch.recipe}\n"


def test_a_program_submits_a_launch_and_knows_its_folder(composed, monkeypatch, tmp_path):
    submitted = []
    toy = ModuleType("posttrain_verl.clusters.toy")
    toy.CLUSTER = Cluster(lambda composed: submitted.append(composed) or 0)
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    launch = composed(
        "cluster=slurm", "hardware=8xh100", "posttrain.cluster.name=toy", f"posttrain.runs_dir={tmp_path}"
    )
    with pytest.raises(InputError, match="detach=True"):  # nobody can tell when it has ended
        clusters.start_launch(launch, detached=False)
    folder = clusters.start_launch(launch, detached=True)
    (given,) = submitted
    assert folder.is_queued and folder.queue_note.read_text() == "in the queue of cluster=toy\n"
    assert given.run_dir() == folder.path and given.posttrain.detach and not launch.posttrain.detach


def test_a_launch_that_a_queue_refuses_does_not_wait_in_it(composed, monkeypatch, tmp_path):
    def refuse(composed):
        raise InputError("nothing was handed over", [])

    toy = ModuleType("posttrain_verl.clusters.toy")
    toy.CLUSTER = Cluster(refuse)
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    words = (
        "cluster=slurm",
        "hardware=8xh100",
        "posttrain.cluster.name=toy",
        f"posttrain.runs_dir={tmp_path / 'runs'}",
    )
    with pytest.raises(InputError, match="nothing was handed over"):
        clusters.start_launch(composed(*words), detached=True)
    assert not list(tmp_path.rglob("*.queued"))


@pytest.mark.parametrize("name", ["nosuch", "remote_launch"])  # no module; a module that is not a kind
def test_an_unknown_name_is_told_the_known_ones(composed, name):
    launch = composed("cluster=slurm", "hardware=8xh100", f"posttrain.cluster.name={name}")
    with pytest.raises(InputError) as refused:
        clusters.submit_launch(launch)
    assert f"posttrain.cluster.name={name} is unknown" in str(refused.value)
    assert "there are: kuberay, local, ray, slurm" in str(refused.value)
    assert refused.value.problems[0] in preflight.find_problems(launch), "check says it, too"


@pytest.mark.parametrize(
    ("text", "said"), [("name: ryu\n", "name=ryu (of "), ("name: ~\n", "is not set"), ("env: {}\n", "is not set")]
)
def test_an_own_file_of_an_unknown_kind_is_named(composed, tmp_path, monkeypatch, text, said):
    file = tmp_path / "conf/cluster/mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package posttrain.cluster\n{text}")
    monkeypatch.chdir(tmp_path)
    launch = composed("cluster=mine", "hardware=cpu")
    [found] = [problem for problem in preflight.find_problems(launch) if "cluster.name" in problem.what]
    assert str(file) in found.what and said in found.what and "there are: kuberay, local, ray, slurm" in found.remedy
    with pytest.raises(InputError, match="nothing to launch"):
        clusters.submit_launch(launch)
    file.write_text("# @package posttrain.cluster\nname: ray\naddress: http://127.0.0.1:1\n")
    assert not [
        problem
        for problem in preflight.find_problems(composed("cluster=mine", "hardware=cpu"))
        if "cluster" in problem.what
    ]
