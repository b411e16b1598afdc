"""What Ray knows of a run's actors and nodes, on every node. The driver writes it, and the supervisor reads it.

Ray's control store learns at once when a worker of any node ends, and why. It is asked through `ray._private.state`
(Ray 2.60), because the public `ray.util.state` needs the dashboard, which our local cluster does not start.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain_verl.paths import write_atomically

INTERVAL_SECONDS = 2.0
# VeRL's actors, and ours, that call the user's code.
_USER_CODE_ACTORS = ("RewardLoopWorker", "AgentLoopWorkerTQ", "SharedLoopWorker")
# What an error says where a process or a node died, and where it, or a connection, is gone.
_DEATH = re.compile(r"ActorDiedError|WorkerCrashedError|NodeDiedError|EngineDeadError|OwnerDiedError")
_LOSS = re.compile(
    rf"{_DEATH.pattern}|ActorUnavailableError|Engine core initialization failed|"
    r"address already in use|EADDRINUSE|Connection (?:reset|refused|closed)|NCCL|ended by (?:SIG|signal)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Member:
    """An actor or a node. `died` is Ray's reason, and is empty while it lives and where its end was asked for.

    `ended` is true in both cases of an end. `here` says whether it is on the driver's machine, because processes of other
    machines may have the same pids.
    """

    kind: str  # "actor" or "node"
    id: str
    name: str
    host: str
    pid: int = 0
    died: str = ""
    ended: bool = False
    here: bool = True


def mentions_lost_process(error: str) -> bool:
    """Whether an error is about a process, a node or a connection that is gone."""
    return bool(_LOSS.search(error))


def mentions_death(error: str) -> bool:
    """Whether an error is Ray's or vLLM's message that a process or a node died."""
    return bool(_DEATH.search(error))


def follow_ray(path: Path) -> None:
    """From now on, write the members of this Ray job to `path`. Its driver calls this."""

    def write_while_running() -> None:
        import ray

        last = ""
        while ray.is_initialized():
            last = write_members(path, last)
            time.sleep(INTERVAL_SECONDS)

    threading.Thread(target=write_while_running, name="members", daemon=True).start()


def read_members(path: Path) -> list[Member]:
    """The members as they were written last; none before the first time."""
    try:
        return [Member(**one) for one in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):  # cut short, or from another version
        return []


def write_members(path: Path, last: str = "", ask: bool = False) -> str:
    """Write the members as they are now, unless they are `last`, and return the text; write nothing where Ray does not answer.

    `ask` is that of `list_members`.
    """
    import ray

    with suppress(OSError, ConnectionError, ray.exceptions.RaySystemError):
        text = json.dumps([asdict(one) for one in list_members(ask)])
        if text != last:
            write_atomically(path, text + "\n")
        return text
    return last


def write_deaths(path: Path, patience: float) -> None:
    """Write the members until one of them is known to have died, for at most `patience` seconds."""
    until = time.monotonic() + patience
    write_members(path, ask=patience > 0)
    while not any(one.died for one in read_members(path)) and time.monotonic() < until:
        time.sleep(INTERVAL_SECONDS / 2)
        write_members(path, ask=True)


def list_members(ask: bool = False) -> list[Member]:
    """Every actor that VeRL made in this job, and every node that one of them is on.

    Actors that a reward or an agent loop made, e.g. a pool of sandboxes, may come, go and crash. So may other nodes: Ray's table
    keeps those that died long before the run began. With `ask`, a node that Ray counts as alive is asked, because Ray's health
    check takes 15 to 20 s to find one gone.
    """
    import ray
    from ray._private.state import state

    context = ray.get_runtime_context()
    nodes, own = {facts["NodeID"]: facts for facts in state.node_table()}, context.get_node_id()
    actors, used = [], {own}
    for facts in verl_actors(list(state.actor_table(None, ray.JobID.from_hex(context.get_job_id())).values())):
        node = facts["Address"]["NodeID"]
        # A node that Ray no longer knows is taken for the driver's.
        here = node not in nodes or nodes[node]["NodeManagerAddress"] == nodes[own]["NodeManagerAddress"]
        actors.append(actor_member(facts, here))
        if actors[-1].died or not actors[-1].ended:
            used.add(node)
    return actors + [node_member(facts, ask) for node, facts in nodes.items() if node in used]


def verl_actors(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of Ray's actor table that no reward worker and no agent loop owns."""

    def listens_at(address: dict[str, Any]) -> tuple[str, int]:
        return address["IPAddress"], address["Port"]

    users = [listens_at(one["Address"]) for one in table if _class_name(one) in _USER_CODE_ACTORS]
    return [one for one in table if listens_at(one["OwnerAddress"]) not in users]


def _class_name(facts: dict[str, Any]) -> str:
    """The name of an actor's class. A class within a function has the function's name before its own."""
    return facts["ActorClassName"].rpartition(".")[2]


def actor_member(facts: dict[str, Any], here: bool = True) -> Member:
    """The member for one entry of Ray's actor table, whose `DeathCause` is Ray's protobuf message ActorDeathCause."""
    ended, died = facts["State"] == "DEAD", ""
    if ended and facts["DeathCause"].HasField("actor_died_error_context"):
        context = facts["DeathCause"].actor_died_error_context
        kind = type(context).Reason.Name(context.reason)
        # Ray's advice follows the reason at length. Its exit types of workers that were asked to end contain INTENDED_.
        message = " ".join(context.error_message.split()).partition(" Some common causes include")[0]
        died = f"{kind}: {message}" if kind in ("WORKER_DIED", "NODE_DIED") and "INTENDED_" not in message else ""
    address = facts["Address"]["IPAddress"]
    return Member("actor", facts["ActorID"], _class_name(facts), address, facts["Pid"], died, ended, here)


def node_member(facts: dict[str, Any], ask: bool) -> Member:
    died = "" if facts["Alive"] else facts.get("DeathReasonMessage") or "it does not answer"
    if ask and not died and refuses_connection(facts["NodeManagerAddress"], facts["NodeManagerPort"]):
        died = "its raylet is gone"
    return Member("node", facts["NodeID"], "node", facts["NodeManagerAddress"], died=died, ended=bool(died))


def refuses_connection(address: str, port: int) -> bool:
    """Whether nothing listens there any more. An address that does not answer at all is left to Ray's patient health check."""
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False
