"""A head of this machine, with a small server in the place of Ray."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain_verl import clusters, paths
from posttrain_verl import head as head_verb
from posttrain_verl.clusters import ray_head as head
from posttrain_verl.clusters import ray_job
from posttrain_verl.machine import processes
from posttrain_verl.run import driver, environment, ray_token
from posttrain_verl.run.folder import RunFolder, Status
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError, WorkFailed
from posttrain_verl.verbs import Head

SERVER = """
import http.server, json, sys
class Version(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"ray_version": "2"}).encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Version).serve_forever()
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")


@pytest.fixture
def ray(monkeypatch):
    """`ray(program)` lets the program run in the place of `ray start`."""

    def place(program):
        monkeypatch.setattr(head, "end_jobs", lambda port, how: None)  # the program has none
        monkeypatch.setattr(head, "ray_command", lambda port, gpus, folder: [sys.executable, "-c", program, str(port)])

    return place


@pytest.fixture
def taken():
    """A port that another program has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]


def test_a_port_of_the_users_that_is_taken_is_refused_and_the_usual_one_is_replaced(taken, monkeypatch):
    with pytest.raises(InputError, match=rf"(?s)port={taken} is in use.*leave port= out"):
        head.choose_port(taken)
    monkeypatch.setattr(head, "USUAL_PORT", taken)
    other = head.choose_port(None)
    assert other != taken and head.is_free(other) and head.choose_port(other) == other


def test_the_head_and_its_jobs_have_this_python_and_listen_on_the_loopback(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("PATH", "/bin")
    found = head.head_environment(None)
    assert found["PATH"].split(":") == [str(Path(sys.executable).parent), "/bin"]
    assert (
        "RAY_ADDRESS" not in found
        and found.items() >= environment.LOOPBACK_ONLY.items()
        and found["RAY_AUTH_MODE"] == "token"
    )


@pytest.fixture
def token(tmp_path, monkeypatch):
    """Where the token of a fresh home folder is, or will be."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(head, "serve_head", lambda port, gpus: 0)
    return tmp_path / "home/.ray/auth_token"


def private(path):
    return path.stat().st_mode & 0o077 == 0


def test_a_token_is_made_before_ray_makes_one_and_others_cannot_read_it(token, monkeypatch):
    """Ray's own start in a run is where it would write one that all users can read."""
    seen = []
    monkeypatch.setattr(driver.ray, "init", lambda **options: seen.append(token.read_text()))
    driver.start_own_ray({})
    assert seen == [token.read_text()] and len(seen[0]) >= 32
    assert private(token) and private(token.parent) and [file.name for file in token.parent.iterdir()] == ["auth_token"]
    assert head_verb.run(Head()) == 0 and token.read_text() == seen[0], "one that is there stays"


@pytest.mark.parametrize("start", [lambda: head_verb.run(Head()), lambda: ray_token.make_token()])
def test_a_token_that_others_can_read_is_closed(token, start):
    token.parent.mkdir(parents=True)
    token.write_text("t")
    token.chmod(0o644)
    start()
    assert private(token) and token.read_text() == "t"


def test_a_head_refuses_a_token_that_it_cannot_close(token, tmp_path, monkeypatch):
    named = tmp_path / "named"
    named.write_text("t")
    named.chmod(0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))

    def refuse(self, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(InputError, match=r"(?s)named cannot be kept from other users.*RAY_AUTH_TOKEN_PATH=FILE"):
        head_verb.run(Head())


def test_rays_files_lie_inside_a_folder_of_this_user_alone(tmp_path):
    """Ray lets everyone write into the folder that it is given."""
    [given] = [each.partition("=")[2] for each in head.ray_command(8265, 1, tmp_path) if each.startswith("--temp-dir=")]
    assert Path(given).parent == tmp_path


def test_rays_own_switch_for_the_loopback_is_there():
    """`ray start` would listen on every address without it; a new Ray may drop it."""
    from ray._private import ray_constants

    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR in environment.LOOPBACK_ONLY


def test_stop_ends_that_head_and_no_other(ray, capsys):
    ray(SERVER)
    ports = [head.free_port(), head.free_port()]
    other = threading.Thread(target=stay_until_ended, args=(ports[1],))
    with processes.temporary_folder("head-") as folder, head.started_ray(ports[0], None, folder) as process:
        other.start()
        until = time.monotonic() + 60
        while len(head.running_heads()) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert {one.port for one in head.running_heads()} == set(ports)
        with pytest.raises(InputError, match=f"(?s)port 1024.*{min(ports)}, {max(ports)}"):
            head.stop_head(1024)
        [second] = [one for one in head.running_heads() if one.port == ports[1]]
        # The verb of the second was killed: its Ray is ended by its id.
        orphan = head.HeadRecord(second.port, second.boot, processes.Process(1, 1), second.ray, second.folder)
        head.record_file(second.port).write_text(head.json.dumps(head.asdict(orphan)))
        assert head_verb.run(Head(stop=ports[1])) == 0
        other.join(timeout=60)
        assert not second.ray.is_alive and process.poll() is None and not Path(second.folder).exists()
        assert [one.port for one in head.running_heads()] == [ports[0]]
    assert head.running_heads() == [] and process.poll() is not None


def stay_until_ended(port):
    with processes.temporary_folder("head-") as folder, head.started_ray(port, None, folder) as process:
        process.wait()


def test_a_ray_that_does_not_come_up_is_tried_again_and_its_last_words_are_shown(ray, tmp_path):
    ray("print('no room in /dev/shm'); raise SystemExit(1)")
    with (
        pytest.raises(WorkFailed, match=r"(?s)tried 3 times:.*no room in /dev/shm"),
        head.started_ray(1024, None, tmp_path),
    ):
        pass
    assert (tmp_path / "ray.txt").read_text().count("no room") == 3 and not head.running_heads()


def test_sigterm_of_the_verb_ends_its_ray(tmp_path):
    """In a process of its own, whose Ray is the small server."""
    (tmp_path / "server.py").write_text(SERVER)
    port = head.free_port()
    program = f"""
import sys
from posttrain_verl.clusters import ray_head as head
head.ray_command = lambda port, gpus, folder: [sys.executable, {str(tmp_path / "server.py")!r}, str(port)]
head.end_jobs = lambda port, how: None
sys.exit(head.serve_head({port}, None))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        [known] = head.running_heads()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert not known.alive and not Path(known.folder).exists() and not list(paths.in_cache("heads").iterdir())


@pytest.mark.parametrize("words", [["port=18266"], ["gpus=2"], ["detach=true"]])
def test_stop_and_what_starts_a_head_are_refused_together(words):
    with pytest.raises(InputError, match="stop=18265 ends a head"):
        command_line.read(Head, ["stop=18265", *words])


def test_what_a_killed_head_left_is_deleted(monkeypatch):
    left = Path(tempfile.mkdtemp(prefix="posttrain-head-"))
    gone = processes.Process(1, 1)
    record = head.HeadRecord(18265, processes.boot_id(), gone, gone, str(left))
    head.record_file(18265).parent.mkdir(parents=True, exist_ok=True)
    head.record_file(18265).write_text(head.json.dumps(head.asdict(record)))
    with pytest.raises(InputError, match="no head of `head` runs at port 18265"):
        head.stop_head(18265)
    assert not left.exists() and not head.record_file(18265).exists()


class Client:
    """A head with jobs: one of a run folder of this machine, one of another machine, and one that has ended."""

    def __init__(self, folder):
        here, there = os.uname().nodename, {"submitted_from": "other", "folder_there": str(folder)}
        metadata = {"mine": {"submitted_from": here, "folder_there": str(folder)}, "theirs": there, "old": {}}
        self.states = {"mine": "RUNNING", "theirs": "PENDING", "old": "SUCCEEDED"}
        self.metadata, self.stopped = metadata, []

    def list_jobs(self):
        return [SimpleNamespace(submission_id=name, metadata=self.metadata[name], status=SimpleNamespace(value=state))
                for name, state in self.states.items()]  # fmt: skip

    def stop_job(self, name):
        self.stopped.append(name)
        self.states[name] = "STOPPED"

    def get_job_status(self, name):
        return SimpleNamespace(value=self.states[name])


def test_the_jobs_of_a_head_end_before_it_and_their_runs_say_why(tmp_path, monkeypatch, capsys):
    run = RunFolder.create(tmp_path / "math_sft" / "it")
    run.write_status(Status("running", started=1.0, job={"address": "http://h:1", "id": "mine", "folder": "~/it"}))
    client, refreshed = Client(run.path), []
    monkeypatch.setattr(ray_job, "connect_head", lambda address: client)
    monkeypatch.setattr(clusters, "jobs_of", lambda status: SimpleNamespace(refresh_status=refreshed.append))
    head.end_jobs(18265, "with `head stop=18265`")
    assert client.stopped == ["mine", "theirs"]
    assert capsys.readouterr().out == "stopping job mine\nstopping job theirs\n"
    assert run.read_stop().endswith("with `head stop=18265`") and [each.path for each in refreshed] == [run.path]


@pytest.mark.parametrize("wedged", [False, True])
def test_a_head_that_does_not_answer_is_ended_without_asking(monkeypatch, wedged):
    ended = threading.Event()

    def refuse(address):
        if wedged:
            ended.wait(60)
        raise InputError("the Ray cluster cannot be used", [])

    monkeypatch.setattr(head, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(ray_job, "connect_head", refuse)
    head.end_jobs(18265, "")
    ended.set()
