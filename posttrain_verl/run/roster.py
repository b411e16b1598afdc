"""What Ray knows of a run's actors and nodes, on every node: the driver writes it, the supervisor reads it.

Ray's control store learns at once when a worker of any node ends, and why. It is asked through `ray._private.state` (Ray 2.60),
since the public `ray.util.state` needs the dashboard, which a local cluster of ours does not start.
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

from posttrain_verl.run.folder import replace

SECONDS = 2.0
_USERS_CODE = (
    "RewardLoopWorker",
    "AgentLoopWorkerTQ",
    "SharedLoopWorker",
)  # VeRL's actors, and ours, that call the user's code
_UNEXPECTED = ("WORKER_DIED", "NODE_DIED")
_INTENDED = "INTENDED_"  # a part of Ray's exit types of workers that were asked to end
_ADVICE = " Some common causes include"  # after which Ray's message goes on at length
# What an error says where a process or a node died, and where it, or a connection, is gone.
_DEATH = re.compile(r"ActorDiedError|WorkerCrashedError|NodeDiedError|EngineDeadError|OwnerDiedError")
_LOSS = re.compile(
    rf"{_DEATH.pattern}|ActorUnavailableError|Engine core initialization failed|"
    r"address already in use|EADDRINUSE|Connection (?:reset|refused|closed)|NCCL|ended by (?:SIG|signal)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Member:
    """An actor or a node. `died` is Ray's reason, empty while it lives or where its end was asked for; `ended` says either.

    `here` is whether it is on the driver's machine: processes of other machines may have the same pids.
    """

    kind: str  # "actor" or "node"
    id: str
    name: str
    host: str
    pid: int = 0
    died: str = ""
    ended: bool = False
    here: bool = True


def speaks_of_a_loss(error: str) -> bool:
    """Whether an error is about a process, a node or a connection that is gone."""
    return bool(_LOSS.search(error))


def speaks_of_a_death(error: str) -> bool:
    """Whether an error is Ray's or vLLM's word that a process or a node died."""
    return bool(_DEATH.search(error))


def follow(path: Path) -> None:
    """From now on, write the roster of this Ray job to `path`; to be called by its driver."""
    threading.Thread(target=_follow, args=(path,), name="roster", daemon=True).start()


def read(path: Path) -> list[Member]:
    """The roster as it was written last; empty before the first time."""
    try:
        return [Member(**one) for one in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):  # half of it, or another version's
        return []


def write(path: Path, last: str = "", ask: bool = False) -> str:
    """Write the roster as it is now, unless it is `last`, and return it; nothing where Ray does not answer."""
    import ray

    with suppress(OSError, ConnectionError, ray.exceptions.RaySystemError):
        text = json.dumps([asdict(one) for one in members(ask)])
        if text != last:
            replace(path, text + "\n")
        return text
    return last


def write_deaths(path: Path, patience: float) -> None:
    """Write the roster, again until it says who died, but for no longer than `patience` seconds."""
    until = time.monotonic() + patience
    write(path, ask=patience > 0)
    while not any(one.died for one in read(path)) and time.monotonic() < until:
        time.sleep(SECONDS / 2)
        write(path, ask=True)


def _follow(path: Path) -> None:
    import ray

    last = ""
    while ray.is_initialized():
        last = write(path, last)
        time.sleep(SECONDS)


def members(ask: bool = False) -> list[Member]:
    """Every actor that VeRL made in this job, and every node that one of them is on.

    Those that a reward or an agent loop made, a pool of sandboxes say, may come, go and crash. Other nodes of a cluster, too:
    Ray's table keeps those that died long before the run began. With `ask`, a node that Ray counts as alive is asked too:
    Ray's health check takes 15 to 20 s to find one gone.
    """
    import ray
    from ray._private.state import state

    context = ray.get_runtime_context()
    nodes, own = {facts["NodeID"]: facts for facts in state.node_table()}, context.get_node_id()
    table = of_verl(list(state.actor_table(None, ray.JobID.from_hex(context.get_job_id())).values()))
    actors = [actor(facts, _is_here(nodes, facts["Address"]["NodeID"], own)) for facts in table]
    pairs = zip(table, actors, strict=True)
    used = {facts["Address"]["NodeID"] for facts, one in pairs if one.died or not one.ended} | {own}
    return actors + [_node(facts, ask) for node, facts in nodes.items() if node in used]


def of_verl(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of Ray's actor table that no reward worker and no agent loop owns."""
    users = [_place(one["Address"]) for one in table if one["ActorClassName"].rpartition(".")[2] in _USERS_CODE]
    return [one for one in table if _place(one["OwnerAddress"]) not in users]


def _place(address: dict[str, Any]) -> tuple[str, int]:
    """Where a process of Ray listens."""
    return address["IPAddress"], address["Port"]


def _is_here(nodes: dict[str, Any], node: str, own: str) -> bool:
    """Whether a node is on the machine of the node `own`; one that Ray knows no more is taken for that."""
    return node not in nodes or nodes[node]["NodeManagerAddress"] == nodes[own]["NodeManagerAddress"]


def actor(facts: dict[str, Any], here: bool = True) -> Member:
    """One entry of Ray's actor table."""
    address, name = (
        facts["Address"],
        facts["ActorClassName"].rpartition(".")[2],
    )  # of a class within a function its own name
    ended = facts["State"] == "DEAD"
    died = _reason(facts["DeathCause"]) if ended else ""
    return Member("actor", facts["ActorID"], name, address["IPAddress"], facts["Pid"], died, ended, here)


def _reason(cause: Any) -> str:
    """Why an actor is dead, if nobody asked for it. `cause` is Ray's protobuf message ActorDeathCause."""
    context = cause.actor_died_error_context
    kind = type(context).Reason.Name(context.reason) if cause.HasField("actor_died_error_context") else ""
    message = " ".join(context.error_message.split()).partition(_ADVICE)[0]
    return f"{kind}: {message}" if kind in _UNEXPECTED and _INTENDED not in message else ""


def _node(facts: dict[str, Any], ask: bool) -> Member:
    died = "" if facts["Alive"] else facts.get("DeathReasonMessage") or "it does not answer"
    if ask and not died and refuses(facts["NodeManagerAddress"], facts["NodeManagerPort"]):
        died = "its raylet is gone"
    return Member("node", facts["NodeID"], "node", facts["NodeManagerAddress"], died=died, ended=bool(died))


def refuses(address: str, port: int) -> bool:
    """Whether nothing listens there any more; what does not answer at all is left to Ray's health check, which has patience."""
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False
