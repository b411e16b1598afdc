"""The command line of the verbs: --cfg job, --multirun, --json, exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posttrain_verl import check, overrides, recipe_verbs
from posttrain_verl.compose import compose
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verbs import Check

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["recipe=math_sft", "hardware=cpu", "base_model=tiny", "mix=embedded"]


def command(*words: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    line = [sys.executable, "-m", "posttrain_verl.check", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def ran(verb, words, declared=Check) -> int:
    return command_line.main(declared, lambda asked: recipe_verbs.run(asked, verb), words)


def never(composed) -> int:
    raise AssertionError("the verb was called")


def test_cfg_job_prints_what_verl_would_get(capsys):
    assert ran(never, [*WORDS, "posttrain.run_id=x", "--cfg", "job"]) == 0
    composed = compose([*WORDS, "posttrain.run_id=x"])
    assert OmegaConf.create(capsys.readouterr().out) == composed.for_run(composed.run_dir())


def test_cfg_job_resolves_on_request(capsys):
    assert ran(never, [*WORDS, "--cfg", "job", "--resolve"]) == 0
    assert "${" not in capsys.readouterr().out


def test_cfg_job_refuses_an_unknown_key(capsys):
    assert ran(never, [*WORDS, "optim.lrr=1", "--cfg", "job"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "did you mean optim.lr?" in captured.err


def test_exit_codes(capsys):
    def interrupted(composed) -> int:
        raise KeyboardInterrupt

    assert ran(lambda composed: 1, WORDS) == 1
    assert ran(interrupted, WORDS) == 130
    assert ran(never, ["recipe=nothing"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_our_own_bugs_show_a_traceback():
    with pytest.raises(AssertionError):
        ran(never, WORDS)


def test_unknown_flag_is_wrong_input(capsys):
    assert ran(never, ["--detach", *WORDS]) == 2
    assert "'--detach' is not an option of check" in capsys.readouterr().err


def test_problems_are_printed_at_once_with_their_remedies(capsys):
    def verb(composed) -> int:
        raise InputError("recipe 'x' cannot launch", [Problem("a is wrong", "do b"), Problem("c is wrong")])

    assert ran(verb, WORDS) == 2
    expected = "recipe 'x' cannot launch (2 problems):\n  1. a is wrong\n     do b\n  2. c is wrong\n"
    assert capsys.readouterr().err == expected


def test_check_says_it_can_launch(capsys, tmp_path):
    assert command_line.main(Check, check.run, [*WORDS, f"posttrain.data_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "16 rows a step; 1 device holds 8 rows; accumulation 2" in out
    assert f"launch will build {tmp_path}/embedded/sft_train.parquet" in out
    assert out.endswith("recipe 'math_sft' can launch\n")


def test_check_as_json(capsys, tmp_path):
    words = [*WORDS, f"posttrain.data_dir={tmp_path}"]
    assert command_line.main(Check, check.run, [*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert command_line.main(Check, check.run, [*words, "optim.lrr=1", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["problems"][0]["remedy"] == "did you mean optim.lr?"


def test_multirun_runs_a_job_for_each_combination(tmp_path):
    words = ["-m", "recipe=math_sft,demo_sft", "base_model=tiny", "mix=embedded", "optim.lr=2e-5", "posttrain.run_id=s"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "member 0: recipe=math_sft\n" in done.stdout and "member 1: recipe=demo_sft\n" in done.stdout
    assert done.stdout.count("' can launch") == 2 and done.stdout.endswith("2 of 2 members can launch\n")
    assert not list(tmp_path.iterdir()), "a check leaves nothing"


def test_multirun_returns_the_worst_exit_code(tmp_path):
    done = command("-m", *WORDS, "data.train_batch_size=16,15", "data.micro_batch_size_per_gpu=8", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.count("' can launch") == 1
    assert "data.micro_batch_size_per_gpu=8 does not divide 15 rows" in done.stdout


def test_multirun_takes_models_by_folder_and_hub_id(tmp_path):
    (tmp_path / "mine.v1").mkdir()
    models = "./mine.v1,Qwen/Qwen2.5-0.5B-Instruct,Org/Model-1B,run:a/b"
    done = command("-m", "recipe=math_sft", f"base_model={models}", cwd=tmp_path, HF_HUB_OFFLINE="1")
    members = re.findall(r"^member \d: (.*)\n(?:recipe .*\n  model +([^, ]*))?", done.stdout, re.MULTILINE)
    assert members == [
        ("base_model=./mine.v1", str(tmp_path / "mine.v1")),
        ("base_model=qwen2_5_0_5b_instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("base_model=Org/Model-1B", "Org/Model-1B"),
        ("base_model=run:a/b", ""),
    ]
    assert "run=a/b is not a run" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "models",
    [("./a/b", "./a_b"), ("./tiny", "tiny"), ("a/b", "a_b", "./a_b"), ("run:r/one", "./run_r_one", "./run_r_one_")],
)
def test_models_of_a_sweep_whose_names_look_alike_are_several(tmp_path, monkeypatch, models):
    monkeypatch.chdir(tmp_path)
    for folder in ("a/b", "a_b", "tiny", "run_r_one", "run_r_one_"):
        (tmp_path / folder).mkdir(parents=True)
    asked = overrides.read_overrides(["recipe=math_sft", f"base_model={','.join(models)}"], sweep=True)
    (swept,) = [each for each in asked.rewritten if each.startswith("base_model=")]
    names = swept.removeprefix("base_model=").split(",")
    assert [asked.typed_option(f"base_model={name}") for name in names] == [f"base_model={each}" for each in models]


def test_a_run_id_is_a_name_and_no_number():
    for name in ("2026_11", "1e3", "true", "007", "a.b"):
        composed = compose(["recipe=demo_sft", "hardware=cpu", f"run_id={name}"])
        assert composed.run_dir().name == name


def test_multirun_refuses_unknown_options_before_any_job(tmp_path):
    done = command("-m", "recipe=math_sft,math_stf", "optim.lr=1,2", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean recipe=math_sft?" in done.stderr and "member 0" not in done.stdout


def test_a_run_that_is_not_there_hides_no_other_problem(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = [
        "recipe=math_grpo",
        "hardware=8xh100",
        "base_model=run:MISSING",
        "learning_rate=1e-4",
        "trainer.save_frek=3",
    ]
    with pytest.raises(InputError) as caught:
        recipe_verbs.compose_arguments(typed)
    said = str(caught.value)
    assert "(3 problems)" in said and "run=MISSING is not a run" in said
    assert "did you mean actor_rollout_ref.actor.optim.lr?" in said and "did you mean trainer.save_freq?" in said
    with pytest.raises(InputError, match="mix=gsm is unknown"):
        recipe_verbs.compose_arguments(["recipe=math_grpo", "mix=gsm", "base_model=run:MISSING"])
