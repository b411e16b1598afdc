"""A Ray cluster of two nodes: two raylets on this host, one logical GPU each, token authentication and dashboard on."""

import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

RAY = Path(sys.executable).with_name("ray")
ALIVE = "import ray; ray.init(log_to_driver=False); print(sum(node['Alive'] for node in ray.nodes()))"


@dataclass(frozen=True)
class Cluster:
    """`address` is the GCS's, `dashboard` where jobs are submitted, `client` the variables of whoever may talk to it."""

    address: str
    dashboard: str
    token: str
    client: dict[str, str]


@pytest.fixture(scope="module")
def cluster(shared: dict[str, str]) -> Iterator[Cluster]:
    """One cluster for the tests of a module. Its jobs use the cache and the warm Python of the session."""
    ports = free_ports(5)
    made = Cluster(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", secrets.token_hex(32), {})
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        token = Path(folder, "token")
        token.write_text(made.token)
        made.client.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_USAGE_STATS_ENABLED="0")
        head = ["--head", f"--port={ports[0]}", f"--temp-dir={folder}/ray", "--dashboard-host=127.0.0.1",
                f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}",
                f"--dashboard-agent-listen-port={ports[3]}"]  # fmt: skip
        first = stack.enter_context(raylet(head, made.client | shared))
        wait_until_listening(ports[0], [first])
        # With a folder of its own, as on a machine of its own: where two nodes share one, the second unpacks the code of a job
        # over that of the first, while the first imports it.
        worker = [f"--address={made.address}", f"--temp-dir={folder}/2", f"--dashboard-agent-listen-port={ports[4]}"]
        second = stack.enter_context(raylet(worker, made.client | shared))
        wait_for_nodes(made, 2, [first, second])
        wait_until_listening(ports[1], [first])
        yield made
    assert_nothing_knows(token)


def assert_nothing_knows(token: Path, seconds: float = 60) -> None:
    """No process is left that was given the token: none of the cluster, and none of the runs on it."""
    marker, until = f"RAY_AUTH_TOKEN_PATH={token}".encode(), time.monotonic() + seconds
    while (left := [entry for entry in Path("/proc").glob("[0-9]*") if marker in environment_of(entry)]) and (
        time.monotonic() < until
    ):
        time.sleep(0.2)
    assert not left, "processes of the cluster are left"


def environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # ended, or not ours
        return b""


@dataclass
class Node:
    """`ray start --block` of one node. On a busy machine Ray ends it where its agents take more than 15 s to come up."""

    command: list[str]
    environ: dict[str, str]

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, env=self.environ, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def start_again_if_it_ended(self) -> None:
        if self.process.poll() is not None:
            self.start()


@contextmanager
def raylet(words: list[str], variables: dict[str, str]) -> Iterator[Node]:
    # Two raylets that hand out workers' ports of one range take a port from each other now and then: the kernel chooses them.
    command = [str(RAY), "start", "--block", "--node-ip-address=127.0.0.1", "--num-gpus=1", "--num-cpus=16",
               "--min-worker-port=0", "--max-worker-port=0", *words]  # fmt: skip
    node = Node(command, {**os.environ, **variables})
    try:
        yield node
    finally:
        node.process.terminate()  # `ray start --block` ends its node's processes
        node.process.wait(timeout=60)


def free_ports(count: int) -> list[int]:
    """So many different free ports of the loopback, from where the kernel takes none for connections in the meantime."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def wait_until_listening(port: int, nodes: list[Node], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for node in nodes:
            node.start_again_if_it_ended()
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"nothing listens at 127.0.0.1:{port} after {seconds:.0f} s")


def wait_for_nodes(cluster: Cluster, count: int, nodes: list[Node], seconds: float = 300) -> None:
    """Wait until so many nodes are alive: the second raylet registers some seconds after its process started."""
    environ = {**os.environ, **cluster.client, "RAY_ADDRESS": cluster.address}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for node in nodes:
            node.start_again_if_it_ended()
        asked = subprocess.run([sys.executable, "-c", ALIVE], env=environ, capture_output=True, text=True, check=False)
        if asked.stdout.split()[-1:] == [str(count)]:
            return
        time.sleep(0.5)
    pytest.fail(f"not {count} nodes after {seconds:.0f} s: {asked.stdout}{asked.stderr}")
