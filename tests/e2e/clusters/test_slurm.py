"""The sbatch script for real: two nodes with addresses of their own (network namespaces), Slurm's programs stood in for."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain_verl.run.folder import RunFolder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ADDRESSES = ("10.213.77.1", "10.213.77.2")
LINK = "ptlink"  # of the same name in both namespaces


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces that see each other under ADDRESSES, and nothing else."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names = (f"pt{os.getpid()}a", f"pt{os.getpid()}b")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", LINK, "netns", names[0], "type", "veth", "peer", "name", LINK, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", LINK)
            for device in ("lo", LINK):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def test_two_nodes_with_addresses_of_their_own(nodes, shared, tmp_path):
    words = ["recipe=math_sft", "base_model=tiny", "mix=embedded", "hardware=cpu", "trainer.nnodes=2", "data.max_length=96",
             "trainer.n_gpus_per_node=1", "data.train_batch_size=16", "trainer.total_training_steps=2", "trainer.save_freq=2",
             "trainer.test_freq=-1", f"posttrain.runs_dir={tmp_path}/runs", "posttrain.run_id=it",
             f"posttrain.data_dir={shared['POSTTRAIN_TEST_DATA']}", "cluster=slurm", "--dry-run"]  # fmt: skip
    printed = subprocess.run(
        [sys.executable, "-m", "posttrain_verl.launch", *words], capture_output=True, text=True, check=True
    )
    (tmp_path / "script").write_text(printed.stdout)
    program(tmp_path / "bin/scontrol", f"printf '%s\\n' {' '.join(ADDRESSES)}")
    program(tmp_path / "bin/srun", f'while [[ $1 == --* ]]; do shift; done; exec ip netns exec {nodes[1]} "$@"')
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("POSTTRAIN_", "RAY_"))} | {
        "POSTTRAIN_CACHE": shared["POSTTRAIN_CACHE"], "GLOO_SOCKET_IFNAME": LINK, "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_ID": str(os.getpid()), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}  # fmt: skip
    done = subprocess.run(["ip", "netns", "exec", nodes[0], "bash", str(tmp_path / "script")], env=environ, timeout=600,
                          capture_output=True, text=True, check=False)  # fmt: skip
    folder = RunFolder(tmp_path / "runs/math_sft/it")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert folder.read_status().last_step == 2
    assert len(list(folder.checkpoints.glob("global_step_2/model_world_size_2_rank_*.pt"))) == 2
    assert set(re.findall(r"ip=(10\.213\.77\.\d)", folder.log.read_text())) == {ADDRESSES[1]}, "Ray names other nodes"
    assert not re.search(r"\b[0-9a-f]{64}\b", done.stdout + done.stderr + folder.log.read_text()), "a token is in a log"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def program(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
