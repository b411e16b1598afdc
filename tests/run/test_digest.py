"""What `logs`, `status` and `list` say of a run, from its files alone."""

import json

import pytest
from omegaconf import OmegaConf

from posttrain_verl import list as list_verb
from posttrain_verl import logs, status
from posttrain_verl.run.digest import Digest
from posttrain_verl.run.folder import DONE, RUNNING, RunFolder, Status
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import List, Logs

WARNING = {
    "time": 1.0,
    "rule": "kl",
    "level": "warn",
    "step": 2,
    "stage": "",
    "saw": "the KL is 0.4",
    "why": "lower the lr",
}


@pytest.fixture
def folder(tmp_path):
    run = RunFolder.create(tmp_path / "runs" / "my_grpo" / "g2")
    run.config.write_text("{}")
    run.write_plan(
        {"recipe": "my_grpo", "base_model": "tiny", "overrides": ["recipe=my_grpo", "lr=3", "posttrain.run_id=g2"]}
    )
    run.log.write_text("loading\nKeyError: no\n")
    write(run, 1, 2, 3)
    run.events.write_text(json.dumps(WARNING) + "\n")
    run.write_status(Status(DONE, started=100.0, ended=190.0, last_step=3, total_steps=8))
    return run


def write(run, *steps):
    measured = {"critic/score/mean": 0.5, "perf/time_per_step": 10.0, "perf/total_num_tokens": 500}
    run.metrics.write_text("".join(json.dumps({"step": step, "data": measured}) + "\n" for step in steps))


def test_the_digest_is_a_line_a_step_with_what_the_watch_saw(folder):
    lines = Digest(folder).read()
    assert [line.split(":")[0] for line in lines] == ["step 1", "step 2", "warn", "step 3"]
    assert lines[2] == "warn: kl at step 2: the KL is 0.4; lower the lr"


def test_a_resume_is_a_line_at_its_step(folder):
    first = {"attempt": 1, "state": "interrupted", "started": 1.0, "ended": 50.0, "last_step": 2, "why": "Ctrl-C"}
    folder.attempts.write_text(json.dumps(first) + "\n")
    folder.write_status(Status(DONE, attempt=2, started=100.0, ended=190.0, resumed_from=2, last_step=3, total_steps=8))
    digest = Digest(folder)
    assert digest.read()[2:4] == [
        "warn: kl at step 2: the KL is 0.4; lower the lr",
        "attempt 2 resumes from step 2; before: Ctrl-C",
    ]
    assert digest.read() == []


def test_it_continues_where_it_was_read_and_after_a_resume_that_cut_the_metrics(folder):
    digest = Digest(folder)
    assert len(digest.read()) == 4 and digest.read() == []
    with folder.events.open("a") as file:
        file.write(json.dumps(WARNING | {"step": None, "level": "info"}) + "\n" + '{"time": 1')
    assert [line.split(":")[0] for line in digest.read()] == ["info"]
    write(folder, 1)
    assert [line.split(":")[0] for line in digest.read()] == ["step 1"]


def test_logs_shows_it_or_the_raw_log(folder, capsys):
    where = f"run={folder.path}"
    assert command_line.main(Logs, logs.run, [where, "-n", "2"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].startswith("warn: kl") and len(said.out.splitlines()) == 2 and said.err == "done\n"
    assert command_line.main(Logs, logs.run, [where, "raw=true"]) == 0
    assert capsys.readouterr().out == "loading\nKeyError: no\n"
    folder.metrics.unlink()
    folder.events.unlink()
    assert command_line.main(Logs, logs.run, [where]) == 0
    assert "no step yet; raw=true shows the log" in capsys.readouterr().err


def test_status_says_how_far_and_how_fast_and_what_to_do(folder, monkeypatch):
    lines = status.status_lines(folder, now=200.0)
    assert "step 3 of 8, 50 tokens/s" in lines and lines[-1] == "warn: kl at step 2: the KL is 0.4; lower the lr"
    monkeypatch.setattr(
        status.run_verbs,
        "current_state",
        lambda run, ask: (RUNNING, Status(RUNNING, 1, 100.0, last_step=3, total_steps=8)),
    )
    assert "step 3 of 8, 50 tokens/s, ETA 50 s" in status.status_lines(folder, now=200.0)


def test_list_says_what_each_run_is_and_measured(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert command_line.main(List, list_verb.run, [f"runs_dir={folder.path.parents[1]}"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert all(part in row for part in ("my_grpo/g2", "done", "3/8", "reward 0.5", "1 min", "tiny", "lr=3")), row
    assert "run_id" not in row


def test_the_runs_of_a_pipeline_are_listed_and_found_by_their_path(tmp_path, capsys):
    run = RunFolder.create(tmp_path / "pipeline/demo/0/runs/demo_sft/sft")
    run.write_config(OmegaConf.create({}))
    assert command_line.main(List, list_verb.run, [f"runs_dir={tmp_path}"]) == 0
    assert "pipeline/demo/0/runs/demo_sft/sft " in capsys.readouterr().out
    assert RunFolder.find("pipeline/demo/0/runs/demo_sft/sft", tmp_path).path == run.path
