"""A sweep runs its members, survives one that fails, and resumes where it ended."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from posttrain_verl.sweep.members import Record
from posttrain_verl.terminal.problem import InputError

ROOT = Path(__file__).resolve().parents[2]


def test_one_member_for_each_combination(run, record, tmp_path, told):
    assert run("optim.lr=0.2,0.4", "data.train_batch_size=8,16") == 0
    said = record()
    assert [member["state"] for member in said["members"]] == ["done"] * 4
    assert said["members"][3]["folder"] == f"{tmp_path}/runs/math_sft/s-3"
    words = json.loads((tmp_path / "runs/math_sft/s-3/words.jsonl").read_text())
    assert {"recipe=math_sft", "++optim.lr=0.4", "++data.train_batch_size=16", "posttrain.run_id=s-3"} <= set(words)
    assert (tmp_path / "runs/multirun/s/sweep.html").stat().st_size > 1000
    assert told[-1] == f"the page of the sweep: {tmp_path}/runs/multirun/s/sweep.html"
    assert (tmp_path / "runs/math_sft/s-3/report.html").is_file(), "which the page links"


def test_the_words_of_the_process_stay_those_of_its_caller(run, monkeypatch):
    mine = ["a program", "with its own", "-m", "words"]
    monkeypatch.setattr(sys, "argv", mine)
    assert run("optim.lr=0.2") == 0
    assert sys.argv is mine and mine == ["a program", "with its own", "-m", "words"]


def test_what_hydra_refuses_is_the_users_mistake(run):
    with pytest.raises(InputError, match="nothing to sweep"):
        run("optim.lr=0.2", "hydra.sweeper.nosuch=1")


def test_a_failed_member_does_not_end_the_others(run, record, capsys):
    assert run("optim.lr=0.2,1,8,0.4") == 137
    assert [(member["state"], member["why"]) for member in record()["members"]] == [
        ("done", ""), ("failed", "ValueError: lr"), ("failed", "exit code 137"), ("done", "")]  # fmt: skip
    assert "2 not done; resume them: -m posttrain.sweep=s" in capsys.readouterr().out


def test_going_on_repeats_only_what_is_not_done(run, record, tmp_path, told):
    run("optim.lr=0.2,1,0.4")
    told.clear()
    assert run(recipe="", id="posttrain.sweep=s") == 1
    said = " ".join(told)
    assert "member 0 is done already" in said and "member 2 is done already" in said
    assert [Path(member["folder"]).name for member in record()["members"]] == ["s-0", "s-1", "s-2"]
    starts = [(tmp_path / f"runs/math_sft/s-{number}/words.jsonl").read_text().splitlines() for number in range(3)]
    assert [len(lines) for lines in starts] == [1, 2, 1]
    assert json.loads(starts[1][1]) == [f"run={tmp_path}/runs/math_sft/s-1"], "it goes on with its run"


@pytest.mark.parametrize(
    ("left", "folder"),
    [(None, "s-0-2"), ({"state": "failed"}, "s-0"), ({"state": "failed", "job": {"id": "j"}}, "s-0")],
)
def test_where_the_next_attempt_of_a_member_runs(tmp_path, left, folder):
    """One that never began has nothing to resume."""
    record = Record(tmp_path / "multirun" / "s", "verb", [])
    member = record.member(["recipe=r"])
    assert not member.goes_on
    run = Path(member.folder)
    run.mkdir(parents=True)
    if left:
        (run / "status.json").write_text(json.dumps(left))
    member = record.member(["recipe=r"])
    assert (Path(member.folder).name, member.goes_on) == (folder, folder == "s-0")


def test_a_member_whose_run_ended_after_the_sweep_was_killed_is_done(tmp_path):
    record = Record(tmp_path / "multirun" / "s", "verb", [])
    for state in ("done", "running"):
        member = record.member(["recipe=r", state])
        member.state = "running"
        Path(member.folder).mkdir(parents=True)
        Path(member.folder, "status.json").write_text(json.dumps({"state": state}))
    record.save()
    assert [member.state for member in Record.load(record.folder).members] == ["done", "waiting"]


def test_going_on_takes_the_same_words_or_none(run):
    run("optim.lr=0.2,0.4")
    assert run("optim.lr=0.2,0.4", id="posttrain.sweep=s") == 0
    with pytest.raises(InputError, match=r"the sweep s has other overrides"):
        run("optim.lr=0.3", id="posttrain.sweep=s")
    with pytest.raises(InputError, match=r"there are: s"):
        run("optim.lr=0.3", id="posttrain.sweep=t")
    with pytest.raises(InputError, match=r"holds a sweep already"):
        run("optim.lr=0.3")


def test_members_at_once(run, record, tmp_path):
    assert run("optim.lr=0.1,0.2,0.3,0.4", "trainer.total_epochs=3", "posttrain.at_once=4") == 0
    assert min(member["seconds"] for member in record()["members"]) > 3
    folders = [tmp_path / f"runs/math_sft/s-{number}" for number in range(4)]
    began = sorted((one / "words.jsonl").stat().st_mtime for one in folders)
    ended = sorted((one / "status.json").stat().st_mtime for one in folders)
    assert began[1] < ended[0], "two of them ran at the same moment"
    assert (tmp_path / "runs/multirun/s/member-3.txt").exists()


def test_ctrl_c_ends_the_members_and_keeps_what_is_done(tmp_path):
    words = ["recipe=math_sft", "base_model=tiny", "hardware=cpu", f"posttrain.runs_dir={tmp_path}/runs",
             "posttrain.run_id=s", "optim.lr=0.2,9,0.3"]  # fmt: skip
    code = f"from posttrain_verl import sweep; sweep.run_sweep('stand_in', {words}, [], print)"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True)
    waiting = tmp_path / "runs/math_sft/s-1/status.json"
    while not waiting.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    said = json.loads((tmp_path / "runs/multirun/s/sweep.json").read_text())
    assert [member["state"] for member in said["members"]] == ["done", "interrupted", "waiting"]
    assert "2 not done" in out


def test_optuna_searches_and_goes_on(run, record, told):
    words = [
        "optim.lr=interval(0.01,0.9)",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1",
    ]
    assert run(*words) == 0
    rates = [value(member, "optim.lr") for member in record()["members"]]
    assert len(set(rates)) == 3 and all(0.01 <= rate <= 0.9 for rate in rates)
    told.clear()
    assert run(*words, id="posttrain.sweep=s") == 0
    assert " ".join(told).count("is done already") == 3
    assert [value(member, "optim.lr") for member in record()["members"]] == rates


@pytest.mark.parametrize("chosen", [min, max], ids=["the failed last", "the failed first"])
def test_optuna_learns_from_the_measure(run, record, tmp_path, monkeypatch, chosen):
    """Optuna's grid draws its order by chance, and hydra-optuna-sweeper cannot end on a trial without a value."""
    monkeypatch.setattr("optuna.samplers._grid.random.choice", chosen)
    run("optim.lr=choice(0.2,0.4,1)", "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=3")
    assert {min: 2, max: 0}[chosen] == [member["state"] for member in record()["members"]].index("failed")
    best = (tmp_path / "runs/multirun/s/optimization_results.yaml").read_text()
    assert "best_value: 0.2" in best, "the smallest loss; the member that failed measured nothing"


def test_words_that_a_search_proposes_again_run_once(run, record, tmp_path):
    """Also those that failed: each trial of the search then has the same worst value."""
    assert run("optim.lr=choice(1)", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3") == 1
    assert [member["state"] for member in record()["members"]] == ["failed"]
    assert len((tmp_path / "runs/math_sft/s-0/words.jsonl").read_text().splitlines()) == 1
    assert "best_value: .inf" in (tmp_path / "runs/multirun/s/optimization_results.yaml").read_text()


def value(member: dict, key: str) -> float:
    return next(float(word.partition("=")[2]) for word in member["overrides"] if word.lstrip("+").startswith(key + "="))


def test_threads_do_not_outlive_a_sweep(run):
    before = threading.active_count()
    run("optim.lr=0.2,0.4", "posttrain.at_once=2")
    assert threading.active_count() == before
