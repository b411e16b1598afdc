"""The run folder: its files, and that a second run cannot have it."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from omegaconf import OmegaConf

from posttrain_verl import list as list_verb
from posttrain_verl import paths, run_verbs
from posttrain_verl.machine import processes
from posttrain_verl.machine.processes import Process
from posttrain_verl.paths import write_atomically
from posttrain_verl.run import record
from posttrain_verl.run.folder import RunFolder, Status, worked_seconds
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import List


def test_a_second_run_cannot_have_the_folder(tmp_path):
    RunFolder.create(tmp_path / "it")
    with pytest.raises(FileExistsError):
        RunFolder.create(tmp_path / "it")


def test_what_is_written_is_read(tmp_path):
    folder = RunFolder.create(tmp_path / "recipe" / "it")
    folder.write_config(OmegaConf.create({"data": {"train_batch_size": 4}, "path": "${data.train_batch_size}"}))
    folder.write_plan({"stage": "rl"})
    status = folder.started(17)
    assert OmegaConf.load(folder.config).path == 4
    assert folder.read_plan() == {"stage": "rl"}
    expected = Status("running", pid=17, started=status.started, supervisor=os.getpid(), machine=os.uname().nodename)
    assert folder.read_status() == status == expected
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", "plan.json", "status.json"]


def test_the_newest_checkpoint_is_the_one_whose_weights_are_whole(tmp_path, save):
    folder = RunFolder(tmp_path)
    for step in (8, 9, 10):
        shards = folder.checkpoints / f"global_step_{step}" / "actor"
        save(shards, world=2)
        (shards / "fsdp_config.json").write_text("{}")
    (folder.checkpoints / "global_step_10/actor/model_world_size_2_rank_1.pt").write_bytes(b"cut short")
    (folder.checkpoints / "global_step_11").mkdir()
    folder.write_plan({"stage": "rl"})
    assert folder.checkpoint_step() == 9
    assert folder.checkpoint_steps() == [8, 9, 10, 11]
    with pytest.raises(InputError, match=r"there are: \[8, 9, 10, 11\]"):
        folder.checkpoint(12)
    folder.write_plan({"stage": "sft"})
    with pytest.raises(InputError, match="holds no whole checkpoint"):
        folder.checkpoint_step()


def test_status_is_plain_json(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_status(Status("failed", why="no memory", last_step=3))
    found = json.loads((tmp_path / "status.json").read_text())
    assert (found["state"], found["why"], found["last_step"]) == ("failed", "no memory", 3)


def test_the_time_of_all_attempts_is_their_work_and_not_the_time_between(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_status(Status("failed", started=100.0, ended=130.0, last_step=9, why="no memory"))
    folder.next_attempt(8)
    folder.next_attempt(8)  # one that did not start
    status = folder.read_status()
    assert (status.attempt, status.last_step) == (3, 8) and len(folder.read_attempts(status)) == 1
    folder.write_status(Status("running", started=5000.0, attempt=3, resumed_from=8, last_step=10))
    first, last = folder.read_attempts(folder.read_status())
    assert (first.attempt, first.last_step, first.why, last.resumed_from) == (1, 9, "no memory", 8)
    assert worked_seconds([first, last], now=5012.0) == 42
    assert worked_seconds([first], now=9999.0) == 30


def test_an_attempt_that_nobody_saw_end_ended_when_it_last_wrote(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_status(Status("running", started=100.0, last_step=9))
    folder.log.write_text("the last line")
    for file in (folder.status, folder.log):
        os.utime(file, (160, 160))
    folder.next_attempt(8)
    [attempt] = folder.read_attempts(folder.read_status())
    assert (attempt.state, attempt.ended, attempt.why) == ("failed", 160.0, "nobody saw it end")


def test_a_run_whose_supervisor_was_killed_worked_until_it_last_wrote(tmp_path):
    folder = RunFolder.create(tmp_path / "it")
    folder.write_status(Status("running", started=100.0, last_step=9))
    os.utime(folder.status, (160, 160))
    record.clear_run(folder, record.Record(os.uname().nodename, "another boot", Process(1, 1)))
    assert (folder.read_status().state, folder.read_status().ended) == ("failed", 160.0)


def test_broken_lines_of_attempts_are_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    folder.attempts.write_text('{"started": "x"}\n[1]\n{"star')
    assert folder.read_attempts(Status("done", started=3.0, ended=4.0))[0].ended == 4.0


def test_a_run_is_found_by_its_names(tmp_path):
    home = tmp_path / "runs"
    for recipe, run_id, written in [("sft", "a", 1), ("sft", "b", 2), ("grpo", "b", 3)]:
        folder = RunFolder.create(home / recipe / run_id)
        folder.write_config(OmegaConf.create({}))
        os.utime(folder.config, (written, written))
    for name in (str(home / "sft" / "a"), "sft/a", "a"):
        assert RunFolder.find(name, home).path == home / "sft" / "a"
    assert RunFolder.find("sft", home).path == home / "sft" / "b", "the newest of the recipe"
    with pytest.raises(InputError, match="grpo/b, sft/b"):
        RunFolder.find("b", home)
    with pytest.raises(InputError, match="newest runs there: grpo/b, sft/b, sft/a"):
        RunFolder.find("nothing", home)


@pytest.mark.parametrize("text", ["", '{"state": "runn', '{"state": "done", "of_another_version": 1}'])
def test_a_status_that_cannot_be_read_is_no_traceback(tmp_path, text):
    """A machine that goes down may leave half a file; the verbs read every run of a folder."""
    (tmp_path / "status.json").write_text(text)
    status = RunFolder(tmp_path).read_status()
    assert (status.state, status.last_step) == ("failed", None)
    assert status.why.startswith("status.json cannot be read, but the run was started; `resume`")


def test_writers_at_the_same_moment_leave_a_whole_file(tmp_path):
    """The roster's thread and the driver's own write the same file."""
    file, texts = tmp_path / "it.json", [json.dumps([letter] * 100_000) for letter in "abcd"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: [write_atomically(file, text) for _ in range(20)], texts))
    assert file.read_text() in texts
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_written_leaves_no_half_of_it(tmp_path):
    (tmp_path / "it.json").mkdir()  # which a file cannot replace
    with pytest.raises(OSError):
        write_atomically(tmp_path / "it.json", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["it.json"]


@pytest.mark.parametrize("name", ["/nowhere/at/all", "it[1]", "../runs/recipe/it*", "~nobody/it"])
def test_a_name_that_is_no_run(tmp_path, name):
    RunFolder.create(tmp_path / "runs" / "recipe" / "it1").config.write_text("")
    with pytest.raises(InputError, match="is not a run in"):
        RunFolder.find(name, tmp_path / "runs")


def test_an_absolute_name_is_a_folder(tmp_path):
    RunFolder.create(tmp_path / "it").config.write_text("")
    assert RunFolder.find(str(tmp_path / "it")).path == tmp_path / "it"


def test_a_run_that_never_started_is_told_from_one_whose_status_was_lost(tmp_path, sft):
    folder = RunFolder.create(tmp_path / "it")
    folder.config.write_text("")
    folder.write_plan({"stage": "sft"})
    assert not folder.has_begun and folder.read_status() == Status("failed", why="never started; `resume` starts it")
    folder.log.write_text("a line")
    assert (
        "status.json is missing, but the run was started; `resume` continues from the start" in folder.read_status().why
    )
    folder.metrics.write_text('{"step": 3, "data": {}}\n{"step": 4, "da')
    (folder.path / ".metrics.2.jsonl").write_text('{"step": 7, "data": {}}\n')
    folder.attempts.write_text('{"attempt": 1, "started": 3.0, "ended": 4.0}\n')
    sft(folder.checkpoints, 6)
    for file, when in ((folder.config, 100), (folder.log, 160), (folder.metrics, 150)):
        os.utime(file, (when, when))
    status = folder.read_status()
    assert (status.state, status.last_step, status.attempt) == ("failed", 7, 2)
    assert (status.started, status.ended) == (100.0, 160.0)
    assert "trained up to step 7; `resume` continues from its newest whole checkpoint" in status.why
    folder.next_attempt(6)
    assert (folder.read_status().attempt, folder.read_status().last_step) == (3, 6)
    assert [each.attempt for each in folder.read_attempts(folder.read_status())] == [1, 2]


def test_a_run_whose_status_was_lost_while_it_trains_is_running(tmp_path):
    folder = RunFolder.create(tmp_path / "it")
    record.write_record(
        folder, record.Record(os.uname().nodename, processes.boot_id(), processes.find_process(os.getpid()))
    )
    state, status = run_verbs.current_state(folder)
    assert (state, status.state, status.supervisor) == ("running", "running", os.getpid())


def test_a_copy_has_the_modes_of_new_files_and_no_socket(tmp_path):
    """A temporary folder is its user's alone, and Ray's logs lie in folders that everyone may write to."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "logs").mkdir(parents=True)
    (source / "logs/a.txt").write_text("a")
    (source / "status.json").write_text("{}")
    os.mkfifo(source / "pipe")
    source.chmod(0o700)
    (source / "logs").chmod(0o777)
    target.mkdir()
    target.chmod(0o2775)
    paths.copy_files(source, target, skip=["status.json"])
    assert [each.name for each in target.iterdir()] == ["logs"] and (target / "logs/a.txt").read_text() == "a"
    assert target.stat().st_mode & 0o7777 == 0o2775 and not (target / "logs").stat().st_mode & 0o002


def test_list_says_what_it_cannot_read(tmp_path, monkeypatch, capsys):
    for name in ("mine", "theirs", "damaged"):
        run = RunFolder.create(tmp_path / "math_sft" / name)
        run.config.write_text("")
        run.write_status(Status("done"))
    (tmp_path / "closed").mkdir()
    closed = {tmp_path / "math_sft/theirs", tmp_path / "math_sft/damaged/status.json", tmp_path / "closed"}
    monkeypatch.setattr(paths.os, "access", lambda path, mode: path not in closed)
    assert command_line.main(List, list_verb.run, [f"posttrain.runs_dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "math_sft/mine" in said
    assert said.endswith("3 more cannot be read by you: closed, math_sft/theirs, math_sft/damaged\n")
    assert command_line.main(List, list_verb.run, [f"posttrain.runs_dir={tmp_path}", "--json"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 1 and "3 more cannot be read" in said.err


def test_a_run_that_was_nearly_named(tmp_path):
    for place in ("rem_grpo/first", "rem_sft/20260101-101010"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").write_text("{}")
    for name, near in (
        ("rem_grp", "run=rem_grpo"),
        ("rem_sft/20260101-10101", "run=rem_sft/20260101-101010"),
        ("frist", "run=first"),
    ):
        with pytest.raises(InputError) as missing:
            RunFolder.find(name, tmp_path)
        assert missing.value.problems[0].remedy.startswith(f"did you mean {near}? newest runs there: ")
