"""A head that cannot be used: one message within seconds, and nothing left."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from posttrain_verl import clusters
from posttrain_verl.clusters import ray_job
from posttrain_verl.terminal.problem import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 64)


@pytest.fixture
def silent():
    """An address where a connection is taken and nothing is answered."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield f"http://127.0.0.1:{one.getsockname()[1]}"


@pytest.fixture
def web():
    """A web server that is not Ray."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_an_unreachable_head_ends_the_launch_and_leaves_nothing(tmp_path):
    address = f"http://127.0.0.1:{closed_port()}"
    words = ["recipe=math_sft", "base_model=tiny", "hardware=cpu", "cluster=ray", f"address={address}",
             f"posttrain.runs_dir={tmp_path}/runs", f"posttrain.data_dir={tmp_path}/data"]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "posttrain_verl.launch", *words], capture_output=True, text=True,
                          check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert time.monotonic() - started < 15
    assert done.returncode == 2
    assert done.stderr.startswith(f"the Ray cluster at {address} cannot be used (1 problem)")
    assert "Connection refused" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_head_that_never_answers(silent, monkeypatch):
    monkeypatch.setattr(ray_job, "PROBE_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"no answer within 0\.5 s"):
        ray_job.connect_head(silent)


@pytest.mark.parametrize("address", ["10.0.0.1:8265", "ray://h:10001", "http://"])
def test_an_address_that_is_none(address):
    with pytest.raises(InputError, match=r"is not http://HOST:PORT"):
        ray_job.connect_head(address)


def test_something_else_answers(web):
    with pytest.raises(InputError, match=r"it answers 501, so it is not a Ray dashboard"):
        ray_job.connect_head(web)


def test_no_token(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"there is no token for the Ray at 127\.0\.0\.1"):
        ray_job.connect_head("http://127.0.0.1:1")


def test_no_address(composed):
    with pytest.raises(InputError, match=r"needs the address of a head"):
        clusters.submit_launch(composed("cluster=ray", "hardware=cpu"))


def test_a_dry_run_here_and_on_ray(composed):
    with pytest.raises(InputError, match=r"--dry-run is for cluster=kuberay, cluster=slurm"):
        clusters.submit_launch(composed("hardware=cpu"), dry_run=True)
    with pytest.raises(InputError, match=r"cluster=ray has no script"):
        clusters.submit_launch(composed("cluster=ray", "address=http://h:1"), dry_run=True)


class Stream:
    """Stands for Ray's client: a log that breaks off twice, and goes on from its beginning each time."""

    def __init__(self, parts: list[list[str]], states: list[str]):
        self.parts, self.states = parts, states

    async def tail_job_logs(self, id: str):
        for chunk in self.parts.pop(0):
            yield chunk
        if self.parts:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_status(self, id: str):
        return type("Status", (), {"value": self.states.pop(0)})


def test_following_goes_on_where_the_connection_broke(monkeypatch):
    monkeypatch.setattr(ray_job, "probe_dashboard", lambda address: None)
    running = ray_job.RayJob("http://h:1", "it", "runs/it")
    running.client = Stream([["a\nb"], ["a\nbc\n", "d"], ["a\n", "bc\nde\n", "f"]], ["RUNNING", "RUNNING", "SUCCEEDED"])
    assert list(running.follow()) == ["a", "bc", "de", "f"]


def test_a_head_that_stays_away_is_given_up(monkeypatch):
    monkeypatch.setattr(ray_job, "LOST_SECONDS", 0.2)
    monkeypatch.setattr(ray_job, "POLL_SECONDS", 0.1)
    running = ray_job.RayJob(f"http://127.0.0.1:{closed_port()}", "it", "runs/it")
    running.client = Stream([["a\n"], []], [])
    lines = running.follow()
    assert next(lines) == "a"
    with pytest.raises(ConnectionError, match=r"has been silent for 0\.2 s"):
        next(lines)


def test_a_path_is_quoted_but_for_its_tilde():
    assert ray_job.shell_quoted("~/a b/c") == "~/'a b/c'"
    assert ray_job.shell_quoted("/a b") == "'/a b'"


class Shell:
    """Stands for Ray's client: a job is run by bash, and Ray's own line about it may come after what it printed."""

    def submit_job(self, entrypoint: str) -> str:
        done = subprocess.run(["bash", "-c", entrypoint], text=True, capture_output=True, check=False)
        self.log, self.state = (
            f"{done.stdout}Running entrypoint: {entrypoint}\n",
            "FAILED" if done.returncode else "SUCCEEDED",
        )
        return "copy"

    def get_job_status(self, id: str):
        return type("Status", (), {"value": self.state})

    def get_job_logs(self, id: str) -> str:
        return self.log


def test_the_small_files_of_a_run_are_fetched(tmp_path, monkeypatch):
    there, here = tmp_path / "the run", tmp_path / "here"
    for name in ("config.yaml", "validation/4.jsonl", "checkpoints/state.txt", "rollouts/1.jsonl", ".cluster.json"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text(f"{name}\n" * 1000)
    monkeypatch.setattr(ray_job.RayJob, "client", Shell())
    assert ray_job.RayJob("http://h:1", "it", str(there)).fetch(here)
    assert sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()) == [
        "config.yaml", "validation/4.jsonl"]  # fmt: skip
    assert (here / "config.yaml").read_text() == (there / "config.yaml").read_text()


def test_a_run_that_has_no_folder_there(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_job.RayJob, "client", Shell())
    assert not ray_job.RayJob("http://h:1", "it", str(tmp_path / "none")).fetch(tmp_path / "here")
