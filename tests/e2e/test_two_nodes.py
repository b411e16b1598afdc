"""A Ray cluster of two nodes: two raylets on this host, one logical GPU each, token authentication on."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
RAY = Path(sys.executable).with_name("ray")


def test_two_nodes_train_and_roll_out_together(launch):
    with two_nodes() as variables:
        run = launch("math_grpo", "trainer.nnodes=2", "trainer.n_gpus_per_node=1", variables=variables)
    run.assert_nothing_runs()
    assert not run.segments
    run.assert_done([1, 2])
    run.assert_rollouts_follow()
    shards = run.folder.checkpoints.glob("global_step_2/actor/model_world_size_2_rank_*.pt")
    assert len(list(shards)) == 2


@contextmanager
def two_nodes() -> Iterator[dict[str, str]]:
    """Start the cluster and yield the variables of its clients."""
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        token = Path(folder, "token")
        token.write_text(secrets.token_hex(32))
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        port = address.split(":")[1]
        head = ["--head", f"--port={port}", f"--temp-dir={folder}/ray", "--include-dashboard=false",
                f"--ray-client-server-port={free_port()}"]  # fmt: skip
        stack.enter_context(raylet(head, variables))
        wait_for(address)
        stack.enter_context(raylet([f"--address={address}"], variables))
        yield variables | {"RAY_ADDRESS": address}


@contextmanager
def raylet(words: list[str], variables: dict[str, str]) -> Iterator[None]:
    command = [str(RAY), "start", "--block", "--node-ip-address=127.0.0.1", "--num-gpus=1", "--num-cpus=16", *words]
    with subprocess.Popen(
        command, env={**os.environ, **variables}, stdout=subprocess.DEVNULL, start_new_session=True
    ) as node:
        try:
            yield
        finally:
            node.terminate()  # `ray start --block` ends its node's processes
            node.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(address: str, seconds: float = 60) -> None:
    host, port = address.split(":")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as one:
            if one.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"no GCS at {address} after {seconds:.0f} s")
