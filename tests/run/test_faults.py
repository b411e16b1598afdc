"""Faults of a run with a driver of the test's own: detected within their bound, named, and nothing left."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from driven import FOREVER, abandoned, alive, conduct, events, in_background, trains, wait_for

from posttrain_verl.run import record, supervise
from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED, RUNNING
from posttrain_verl.terminal.problem import InputError

WORKERS = """
import signal, subprocess
folder = pathlib.Path(sys.argv[-1])
def start(title, *command):  # as vLLM and Ray give their processes titles
    return subprocess.Popen([title, *command], executable=command[0], process_group=0)
server = subprocess.Popen(["sh", "-c", "sleep 600"], process_group=0)
engine = subprocess.Popen(["VLLM::EngineCore", "601"], executable="/bin/sleep", process_group=0)
(folder / "engine").write_text(str(engine.pid))
actor = {"kind": "actor", "id": "a", "name": "vLLMHttpServer", "host": "127.0.0.1", "pid": server.pid, "died": ""}
(folder / ".cluster.json").write_text(json.dumps([actor]))
log(1, **{"train/loss": 1.0})
"""
# A child of the server that lives for several looks and ends, well or with an error: vLLM asks about a model class in one.
CHILDREN = """
for title, seconds, code in (("python", 5, 0), ("cc", 5, 1), ("VLLM::EngineCore", 5, 0)):
    subprocess.Popen([title, "-c", f"sleep {seconds}; exit {code}"], executable="/bin/sh", process_group=0)
time.sleep(14)
for one in (server, engine):
    one.terminate()
"""
# A fork of the engine that has not become anything else bears its title.
FORK = """
import ctypes
name = b"VLLM::EngineCore"
subprocess.Popen(["VLLM::EngineCore", "-c", "VLLM::EngineCore() { sleep 5; }; (sleep 5; kill -9 $BASHPID) & wait; sleep 4"],
                 executable="/bin/bash", process_group=0).wait()
for one in (server, engine):
    one.terminate()
"""
DEAD_ACTOR = """
actor = {"kind": "actor", "id": "a", "name": "WorkerDict", "host": "10.0.0.2", "pid": 7, "died": ""}
roster = pathlib.Path(sys.argv[-1], ".cluster.json")
roster.write_text(json.dumps([actor]))
log(1, **{"train/loss": 1.0})
roster.write_text(json.dumps([actor | {"died": "WORKER_DIED: SYSTEM_ERROR"}]))
time.sleep(600)
"""


def test_nan_in_the_loss_ends_the_run(prepared):
    folder = prepared("log(1, **{'train/loss': 1.0}); log(2, **{'train/loss': None}); time.sleep(600)")
    began = time.monotonic()
    status, _ = conduct(folder)
    assert time.monotonic() - began < 30
    assert (status.state, status.rule, status.last_step) == (FAILED, "non_finite", 2)
    assert status.why.startswith("non_finite at step 2 (update): train/loss not finite")
    assert [(one["rule"], one["level"], one["step"], one["stage"]) for one in events(folder)] == [
        ("non_finite", "stop", 2, "update")
    ]
    assert not alive(status.pid)


def test_a_rule_that_warns_does_not_end_the_run(prepared):
    folder = prepared("log(1, **{'train/loss': None}); time.sleep(1)", non_finite={"do": "warn"})
    status, told = conduct(folder)
    assert status.state == "done"
    assert any(line.strip().startswith("warn: non_finite") for line in told)


def test_a_silent_run_is_ended_within_ten_seconds_of_its_limit(prepared):
    folder = prepared(FOREVER, silence={"seconds": 4})
    began = time.monotonic()
    status, _ = conduct(folder)
    assert 4 <= time.monotonic() - began < 4 + 10 + 6  # the start of Python, and its end
    assert (status.state, status.rule) == (FAILED, "silence")


COMPUTES = "log(1, **{'train/loss': 1.0})\nuntil = time.monotonic() + 25\nwhile time.monotonic() < until: pass"
SAVES = """
log(1, **{'train/loss': 1.0})
checkpoints = pathlib.Path(sys.argv[-1], "checkpoints")
checkpoints.mkdir()
for part in range(20):  # slowly, and without a word
    checkpoints.joinpath("shard").open("ab").write(b"0" * 100)
    time.sleep(1)
"""
ROTATED = """
log(1, **{'train/loss': 1.0})
log_file = pathlib.Path(sys.argv[-1], "log.txt")
log_file.rename(log_file.with_name("log.txt.1"))
log_file.write_text("")
for line in range(20):
    print(line, flush=True)
    time.sleep(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [COMPUTES, SAVES, ROTATED])
def test_a_silent_run_that_shows_life_goes_on(prepared, program):
    status, _ = conduct(prepared(program, silence={"seconds": 14}))
    assert status.state == DONE, status.why


@pytest.mark.slow
def test_a_thread_that_spins_is_ended_after_its_own_limit(prepared):
    spins = COMPUTES.replace("+ 25", "+ 600")
    status, _ = conduct(prepared(spins, silence={"seconds": 14, "busy": 24}))
    assert (status.state, status.rule) == (FAILED, "silence")
    assert re.search(r"no progress for \d+ s \(limit 24 s\); looked for: log .*cores", status.why)


@pytest.mark.slow
def test_a_supervisor_that_was_stopped_does_not_blame_the_run(prepared):
    """As on a laptop that slept, or where Ctrl-Z stopped the launch and its run: the time in between does not count."""
    folder = prepared("log(1, **{'train/loss': 1.0}); time.sleep(25)", silence={"seconds": 14}, stopped={"seconds": 5})
    process = in_background(folder)
    wait_for(lambda: trains(folder))
    driver = folder.read_status().pid
    for number in (signal.SIGSTOP, signal.SIGCONT):
        os.kill(process.pid, number)
        os.kill(driver, number)
        time.sleep(20 if number == signal.SIGSTOP else 0)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


def test_memory_that_runs_out_names_the_process_that_leaks(prepared):
    leaks = "log(1, **{'train/loss': 1.0}); leak = b'0' * 300_000_000; time.sleep(600)"
    status, _ = conduct(prepared(leaks, host_memory={"below": 1.0, "below_gib": 1e6}))
    assert (status.state, status.rule) == (FAILED, "host_memory")
    assert f"(pid {status.pid}) holds 0.3 GiB" in status.why


def test_an_engine_that_dies_is_noticed(prepared):
    folder = prepared(WORKERS + "time.sleep(600)")
    process = in_background(folder)
    wait_for(lambda: trains(folder))
    time.sleep(4)  # two looks
    os.kill(int((folder.path / "engine").read_text()), signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: folder.events.exists(), 15)
    assert time.monotonic() - killed <= 15
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    status = folder.read_status()
    assert status.rule == "dead"
    assert "VLLM::EngineCore (pid" in status.why and "died: it was ended by SIGKILL" in status.why
    assert "dead at step 1" in output


def test_a_second_supervisor_with_another_cache_is_kept_out(prepared, monkeypatch, tmp_path):
    folder = prepared(FOREVER)
    process = in_background(folder)
    wait_for(lambda: trains(folder))
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "another"))
    with pytest.raises(InputError, match=rf"is running \(pid {process.pid}\)"):
        conduct(folder)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert folder.read_status().state == INTERRUPTED


@pytest.mark.slow
@pytest.mark.parametrize("program", [CHILDREN, FORK])
def test_children_that_come_and_go_are_no_deaths(prepared, program):
    status, _ = conduct(prepared(WORKERS + program))
    assert status.state == DONE, status.why


CLOSED = """
judge = subprocess.Popen(["VLLM::EngineCore", "4"], executable="/bin/sleep", process_group=0)
judge.wait()  # its status is then gone
time.sleep(12)
for one in (server, engine):
    one.terminate()
"""


@pytest.mark.slow
def test_an_engine_of_a_judge_that_is_closed_is_no_death(prepared):
    status, _ = conduct(prepared(WORKERS + CLOSED))
    assert status.state == DONE, status.why


SERVER = """
import subprocess, time
engine = subprocess.Popen(["VLLM::EngineCore", "601"], executable="/bin/sleep")
time.sleep(4)
engine.kill()
engine.wait()
time.sleep(600)
"""


def test_an_engine_below_its_server_is_missed_whatever_its_status(prepared):
    """On a GPU vLLM itself waits for it at once, and nobody else learns how it ended."""
    workers = WORKERS.replace('["sh", "-c", "sleep 600"]', f"[sys.executable, '-c', {SERVER!r}]")
    status, _ = conduct(prepared(workers + "time.sleep(600)"))
    assert status.rule == "dead"
    assert "VLLM::EngineCore" in status.why and "its exit status is not known" in status.why


REFILLS = """
log(1, **{'train/loss': 1.0})
file = pathlib.Path(os.environ["POSTTRAIN_ACTIVITY_FILE"]).with_name(".rollouts.txt")
for count in range(60):  # groups are thrown away as they come, as where all rewards are equal
    file.write_text(str(8 + count % 6))
    time.sleep(1)
"""


@pytest.mark.slow
def test_rollouts_that_come_and_go_for_ever_are_no_progress(prepared):
    status, _ = conduct(prepared(REFILLS, silence={"seconds": 14, "busy": 20}))
    assert status.rule == "silence", status.state


@pytest.mark.slow
def test_rollouts_that_become_more_are_progress(prepared):
    more = REFILLS.replace("range(60)", "range(25)").replace("8 + count % 6", "8 + count")
    status, _ = conduct(prepared(more, silence={"seconds": 14}))
    assert status.state == DONE, status.why


def test_a_look_that_fails_is_skipped_and_said_once(prepared, monkeypatch):
    looks = []

    def busy_table(self):
        looks.append(1)
        raise OSError(errno.ENFILE, "Too many open files in system", "/proc")

    monkeypatch.setattr("posttrain_verl.machine.processes.ProcessTree.refresh_names", busy_table)
    folder = prepared("log(1, **{'train/loss': 1.0}); time.sleep(9)")
    status, _ = conduct(folder)
    assert status.state == DONE, status.why
    assert len(looks) > 1
    assert [(one["rule"], one["level"]) for one in events(folder)] == [("look", "info")]


def test_a_plan_of_an_older_version_gets_the_rules_it_lacks(prepared):
    folder = prepared("log(1, **{'train/loss': None}); time.sleep(600)")
    plan = folder.read_plan()
    plan["watch"] = {"non_finite": {"do": "stop", "steps": 1}, "silence": {"do": "stop", "seconds": 600.0}}
    folder.write_plan(plan)
    assert conduct(folder)[0].rule == "non_finite"


def test_an_actor_that_ray_says_is_dead(prepared):
    status, _ = conduct(prepared(DEAD_ACTOR))
    assert status.rule == "dead"
    assert "actor WorkerDict (pid 7 on 10.0.0.2) died: WORKER_DIED" in status.why


def test_the_supervisor_is_killed_and_the_next_start_clears(prepared, told):
    folder = prepared("import tempfile; tempfile.mkdtemp(); log(1, **{'train/loss': 1.0}); time.sleep(600)")
    process = in_background(folder)
    wait_for(lambda: trains(folder))
    time.sleep(3)
    known = json.loads((folder.path / "processes.json").read_text())
    driver = folder.read_status().pid
    assert driver in [one["pid"] for one in known["processes"]]
    process.kill()
    process.wait()
    shown = subprocess.run(
        [sys.executable, "-m", "posttrain_verl.status", f"run={folder.path}"], capture_output=True, text=True
    )
    assert "lost" in shown.stdout
    other = prepared("pass", name="other")
    supervise.supervise_run(other)
    assert any(line.startswith(f"clearing what the dead run {folder.path} left: 1 processes") for line in told)
    assert not alive(driver)
    assert not os.path.exists(known["folders"][0])
    status = folder.read_status()
    assert (status.state, status.why) == (FAILED, "the supervisor of the run is gone")


def test_a_process_with_the_pid_of_a_dead_run_is_left_alone(prepared):
    folder = abandoned(prepared(FOREVER))
    stranger = subprocess.Popen(["sleep", "600"])
    file = folder.path / "processes.json"
    known = json.loads(file.read_text())
    driver = known["processes"][0]["pid"]
    known["processes"].append({"pid": stranger.pid, "started": 1})  # the pid was used again
    file.write_text(json.dumps(known))
    supervise.supervise_run(prepared("pass", name="other"))
    assert stranger.poll() is None
    assert not alive(driver)
    stranger.kill()
    stranger.wait()


def test_another_run_that_lives_is_left_alone(prepared):
    folder = prepared(FOREVER)
    process = in_background(folder)
    wait_for(lambda: trains(folder))
    supervise.supervise_run(prepared("pass", name="other"))
    assert process.poll() is None
    assert alive(folder.read_status().pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert folder.read_status().state == INTERRUPTED


def test_stop_and_status_from_another_shell(prepared):
    folder = prepared(FOREVER)
    process = in_background(folder)
    wait_for(lambda: trains(folder) and folder.read_status().last_step)  # the supervisor reads it a moment later
    verb = [sys.executable, "-m"]
    name = f"run={folder.path}"
    shown = json.loads(subprocess.check_output([*verb, "posttrain_verl.status", name, "--json"]))
    assert (shown["state"], shown["last_step"]) == (RUNNING, 1)
    assert subprocess.run([*verb, "posttrain_verl.stop", name]).returncode == 0
    assert re.fullmatch(r"stopped by \S+@\S+ with `stop`", folder.read_status().why)
    assert process.wait(timeout=5) == 130
    assert not alive(shown["pid"])
    assert not (folder.path / "processes.json").exists()
    listed = subprocess.check_output(
        [*verb, "posttrain_verl.list", f"posttrain.runs_dir={folder.path.parent.parent}"], text=True
    )
    assert "recipe/it" in listed
    assert "interrupted" in listed


def test_a_detached_run_goes_on_alone_and_is_followed(prepared, told):
    folder = prepared("log(1, **{'train/loss': 1.0}); print('up', flush=True); time.sleep(3); print('end', flush=True)")
    assert supervise.hand_over(folder, detached=True) == 0
    assert "posttrain_verl.logs -f run=" in " ".join(told)
    assert os.getsid(folder.read_status().supervisor) == folder.read_status().supervisor
    command = [sys.executable, "-m", "posttrain_verl.logs", "-f", f"run={folder.path}"]
    raw = subprocess.run([*command, "raw=true"], capture_output=True, text=True, timeout=30)
    assert raw.stdout.splitlines() == ["up", "end"] and raw.stderr.strip() == "done"
    followed = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert followed.stdout.splitlines() == ["step 1: loss 1"] and followed.stderr.strip() == "done"
    assert "done after 1 steps" in (folder.path / supervise.DETACHED_OUTPUT).read_text()


def test_a_detached_run_that_does_not_start_says_why(prepared, told):
    folder = prepared("pass")
    (folder.path / "plan.json").write_text("{}")
    assert supervise.hand_over(folder, detached=True) == 1
    assert "KeyError" in " ".join(told)


def test_four_at_the_same_moment(prepared):
    folders = [prepared(FOREVER.replace("600", "2"), name=f"run{number}") for number in range(4)]
    processes = [in_background(folder) for folder in folders]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert [folder.read_status().state for folder in folders] == ["done"] * 4


def test_a_stale_lock_and_socket_of_a_dead_run_do_not_matter(prepared, tmp_path):
    folder = prepared("pass")
    record.folder_lock(folder)
    os.makedirs(os.path.dirname(record.folder_lock(folder).lock_file), exist_ok=True)
    open(record.folder_lock(folder).lock_file, "w").close()
    assert conduct(folder)[0].state == "done"


LOST_RAYLET = """
import os
mark = pathlib.Path(sys.argv[-1], "tries")
tries = len(mark.read_text()) if mark.exists() else 0
mark.write_text("x" * (tries + 1))
def doing(activity):
    pathlib.Path(os.environ["POSTTRAIN_ACTIVITY_FILE"]).write_text(json.dumps({"activity": activity, "since": 0}))
CORE = "[2026-11-30 20:36:53,179 E 2 3] core_worker.cc:9: Failed to get the system config from raylet because it is dead."
"""
DIES = (
    "doing('starting Ray'); print(CORE, flush=True)\nif tries < {times}: os._exit(1)\nlog(1, **{{'train/loss': 1.0}})"
)


@pytest.mark.parametrize(("times", "state", "tries"), [(1, "done", 2), (9, "failed", 2)])
def test_a_driver_that_rays_core_ends_at_the_start_is_started_once_more(prepared, times, state, tries):
    folder = prepared(LOST_RAYLET + DIES.format(times=times))
    status, told = conduct(folder)
    assert (status.state, len((folder.path / "tries").read_text())) == (state, tries)
    assert sum("starting Ray again" in line for line in told) == 1
    why = "Ray ended its driver while it started: Failed to get the system config from raylet because it is dead."
    assert any(why in line for line in told) and status.why == (why if state == "failed" else "")
    assert status.attempt == 2


@pytest.mark.parametrize(
    "program",
    [
        "doing('loading the model'); os._exit(1)",  # the user's code, later, without a word
        "doing('starting Ray'); raise ValueError('ray_kwargs are wrong')",  # and what Python says itself
        "raise SystemExit(1)",
    ],
)
def test_a_driver_that_ends_by_its_own_fault_is_not_started_again(prepared, program):
    folder = prepared(LOST_RAYLET + program)
    status, told = conduct(folder)
    assert (status.state, status.rule, (folder.path / "tries").read_text()) == (FAILED, "", "x")
    assert not any("again" in line for line in told)
