"""What Ray's actor table means: who died, and whether somebody asked for it."""

import socket
import traceback
from types import SimpleNamespace

import pytest
import ray
from ray import exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.core.generated.gcs_pb2 import ActorTableData

from posttrain_verl.run import ray_state

EXIT = (
    "The actor is dead because its worker process has died. Worker exit type: {}  Worker exit detail: none. "
    "Some common causes include: (1) the process was killed by the OOM killer."
)


def facts(state, reason=None, message=""):
    """As `ray._private.state.actor_table` gives it."""
    data = ActorTableData()
    if reason:
        context = data.death_cause.actor_died_error_context
        context.reason, context.error_message = ActorDiedErrorContext.Reason.Value(reason), message
    return {"ActorID": "a", "ActorClassName": "made_by.<locals>.WorkerDict", "Pid": 7, "State": state,
            "Address": {"IPAddress": "10.0.0.2", "Port": 2, "NodeID": "n2"},
            "OwnerAddress": {"IPAddress": "10.0.0.1", "Port": 1}, "DeathCause": data.death_cause}  # fmt: skip


def test_an_actor_that_lives():
    assert ray_state.actor_member(facts("ALIVE")) == ray_state.Member("actor", "a", "WorkerDict", "10.0.0.2", 7)


@pytest.mark.parametrize("reason", ["WORKER_DIED", "NODE_DIED"])
def test_an_actor_that_died(reason):
    died = ray_state.actor_member(facts("DEAD", reason, EXIT.format("SYSTEM_ERROR"))).died
    assert died.startswith(f"{reason}: The actor is dead because")
    assert "OOM" not in died


@pytest.mark.parametrize(
    ("reason", "message"),
    [("RAY_KILL", "killed"), ("OUT_OF_SCOPE", ""), ("WORKER_DIED", EXIT.format("INTENDED_USER_EXIT")), (None, "")],
)
def test_an_actor_whose_end_was_asked_for(reason, message):
    assert ray_state.actor_member(facts("DEAD", reason, message)).died == ""


@pytest.mark.parametrize(
    ("state", "reason", "blamed"),
    [("ALIVE", None, True), ("DEAD", "NODE_DIED", True), ("DEAD", "RAY_KILL", False)],
)
def test_only_the_nodes_of_the_run_count(monkeypatch, state, reason, blamed):
    """Ray's table keeps the nodes that died long ago, and another job's may die at any time."""
    node = {"Alive": False, "DeathReasonMessage": "it left", "NodeManagerAddress": "10.0.0.2", "NodeManagerPort": 1}
    nodes = [
        node | {"NodeID": "n1", "Alive": True, "NodeManagerAddress": "10.0.0.1"},
        node | {"NodeID": "n2"},
        node | {"NodeID": "n3"},
    ]
    table = SimpleNamespace(actor_table=lambda *_: {"a": facts(state, reason)}, node_table=lambda: nodes)
    monkeypatch.setattr("ray._private.state.state", table)
    context = SimpleNamespace(get_job_id=lambda: "01000000", get_node_id=lambda: "n1")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    found = {one.id: one.died for one in ray_state.list_members() if one.kind == "node"}
    assert [one.here for one in ray_state.list_members() if one.kind == "actor"] == [False], (
        "its pid may be another process's here"
    )
    assert found == {"n1": ""} | ({"n2": "it left"} if blamed else {})


def test_actors_of_the_users_code_are_not_the_runs():
    """A pool of sandboxes, made by a reward, may lose one and go on."""
    worker = facts("ALIVE") | {"ActorClassName": "RewardLoopWorker"}
    sandbox = facts("DEAD", "WORKER_DIED") | {"ActorClassName": "Sandbox", "OwnerAddress": worker["Address"]}
    assert ray_state.verl_actors([worker, sandbox]) == [worker]


def test_a_roster_that_is_not_there_or_half_there(tmp_path):
    assert ray_state.read_members(tmp_path / "missing") == []
    for text in ("[{", '[{"kind": "actor", "id": "a", "name": "n", "host": "h", "of another version": 1}]'):
        (tmp_path / "half").write_text(text)
        assert ray_state.read_members(tmp_path / "half") == []


def test_a_node_that_answers_no_more_is_waited_for(tmp_path, monkeypatch):
    """Ray says that an actor cannot be reached before it knows that its node is gone."""
    seen = [[], [], [ray_state.Member("node", "n", "node", "10.0.0.2", died="it does not answer")]]
    monkeypatch.setattr(ray_state, "INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(ray_state, "list_members", lambda ask: seen.pop(0) if len(seen) > 1 else seen[0])
    ray_state.write_deaths(tmp_path / "roster.json", patience=0.0)
    assert ray_state.read_members(tmp_path / "roster.json") == []
    ray_state.write_deaths(tmp_path / "roster.json", patience=5.0)
    assert [one.died for one in ray_state.read_members(tmp_path / "roster.json")] == ["it does not answer"]


@pytest.mark.parametrize(
    ("cause", "lost"),
    [
        (exceptions.ActorUnavailableError("x", b"1" * 16), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:47835"), True),
        (ValueError("the user's"), False),
    ],
)
def test_a_loss_is_known_through_the_errors_around_it(cause, lost):
    """Ray may tell of the node later than the workers that spoke with it."""
    text = "".join(traceback.format_exception(cause))
    wrapped = exceptions.RayTaskError("outer", text, exceptions.RayTaskError("inner", text, cause))
    assert ray_state.mentions_lost_process(text) == ray_state.mentions_lost_process(str(wrapped)) == lost


def test_a_node_whose_port_is_closed_refuses():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ray_state.refuses_connection("127.0.0.1", port)
    assert ray_state.refuses_connection("127.0.0.1", port)
