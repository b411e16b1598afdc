"""What Ray's actor table means: who died, and whether somebody asked for it."""

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.core.generated.gcs_pb2 import ActorTableData

from posttrain_verl.run import roster

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
            "Address": {"IPAddress": "10.0.0.2"}, "DeathCause": data.death_cause}  # fmt: skip


def test_an_actor_that_lives():
    assert roster.actor(facts("ALIVE")) == roster.Member("actor", "a", "WorkerDict", "10.0.0.2", 7)


@pytest.mark.parametrize("reason", ["WORKER_DIED", "NODE_DIED"])
def test_an_actor_that_died(reason):
    died = roster.actor(facts("DEAD", reason, EXIT.format("SYSTEM_ERROR"))).died
    assert died.startswith(f"{reason}: The actor is dead because")
    assert "OOM" not in died


@pytest.mark.parametrize(
    ("reason", "message"),
    [("RAY_KILL", "killed"), ("OUT_OF_SCOPE", ""), ("WORKER_DIED", EXIT.format("INTENDED_USER_EXIT")), (None, "")],
)
def test_an_actor_whose_end_was_asked_for(reason, message):
    assert roster.actor(facts("DEAD", reason, message)).died == ""


def test_a_roster_that_is_not_there_or_half_there(tmp_path):
    assert roster.read(tmp_path / "missing") == []
    (tmp_path / "half").write_text("[{")
    assert roster.read(tmp_path / "half") == []
