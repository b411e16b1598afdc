"""The files that `posttrain new` writes: valid as they stand, and never over another."""

import json
import re

import pytest

from posttrain_verl import new, prep
from posttrain_verl.compose import compose
from posttrain_verl.preflight import run_checks
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import blocking
from posttrain_verl.verbs import New, Prep
from reward_fns.own import OwnReward


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*arguments: str) -> int:
    return command_line.main(New, new.run, arguments)


@pytest.mark.parametrize(
    ("arguments", "file", "then"),
    [
        (["reward"], "my_reward.py", "posttrain check recipe=RECIPE reward=my_reward.py"),
        (["reward", "digits.py"], "digits.py", "posttrain check recipe=RECIPE reward=digits.py"),
        (["recipe", "sums"], "recipes/sums.yaml", "posttrain check recipe=sums"),
        (["recipe", "sums", "sft"], "recipes/sums.yaml", "posttrain check recipe=sums"),
        (["mix"], "conf/mix/my_mix.yaml", "posttrain prep mix=conf/mix/my_mix.yaml"),
    ],
)
def test_a_file_is_written_once_and_the_next_command_is_shown(arguments, file, then, place, capsys):
    assert write(*arguments) == 0
    assert capsys.readouterr().out.strip().endswith(then)
    (place / file).write_text("mine")
    assert write(*arguments) == 2
    assert (place / file).read_text() == "mine" and "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no kind of file is named"),
        (["rewrad"], "did you mean new reward?"),
        (["mix", "../up"], "../up is not a name"),
        (["mix", "a", "b"], "'b' is one argument too many"),
        (["recipe", "a", "sfd"], "sfd is not a stage"),
        (["recipe", "sft"], "sft is a stage, and no name is given"),
        (["recipe", "a", "sft", "b"], "'b' is one argument too many"),
        (["mix=a"], "is not an option of new"),
    ],
)
def test_wrong_arguments(arguments, said, capsys):
    assert write(*arguments) == 2
    assert said in capsys.readouterr().err


def test_the_reward_grades(place):
    assert write("reward") == 0
    reward = OwnReward(str(place / "my_reward.py"), arguments={"near_miss": 0.2})
    reward.check_signature()
    scores = [reward.grade("any", answer, "1200") for answer in ("It is 1,200.", "5", "", "1200.0")]
    assert [(each["score"], each["acc"]) for each in scores] == [(1.0, 1.0), (0.2, 0.0), (0.0, 0.0), (1.0, 1.0)]
    assert len({tuple(each) for each in scores}) == 1, "the same keys always"


RL_STEP = "128 prompts x 8 rollouts = 1024 sequences a step; 1 optimizer step of 128 prompts"


@pytest.mark.parametrize(
    ("stage", "step"),
    [([], RL_STEP), (["rl"], RL_STEP), (["sft"], "128 rows a step"), (["dpo"], "128 pairs = 256 sequences a step")],
)
def test_the_recipe_composes_and_is_right_but_for_what_is_not_here(stage, step):
    assert write("recipe", "mine", *stage) == 0
    composed = compose(["recipe=mine", "hardware=8xh100"])
    elsewhere = (
        "model",
        "data",
        "tokenizer",
        "architecture",
        "ray",
        "shared_memory",
        "manifest",
        "attention",
        "machine",
    )
    assert blocking(run_checks(composed, skip=elsewhere).problems) == []
    assert composed.settings.describe_step() == step


def test_there_is_a_recipe_to_begin_with_for_every_trunk():
    assert {file.stem for file in new.FOLDER.glob("recipe_*.yaml")} == {"recipe_rl", "recipe_sft", "recipe_dpo"}


def test_the_splits_for_sft_are_there_to_be_taken(place):
    assert write("mix", "mine") == 0
    file = place / "conf/mix/mine.yaml"
    lines = [re.sub(r"^( +)# (?=(?:sft_\w+|columns): )", r"\1", line) for line in file.read_text().splitlines()]
    first = next(line for line in lines if line.startswith("    columns: "))
    file.write_text("\n".join(line for line in lines if line != first))
    rows = [
        {"question": f"{n}*{n + 3}?", "worked": f"So {n}*{n + 3}={n * (n + 3)}.", "answer": str(n * (n + 3))}
        for n in range(400)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert command_line.main(Prep, prep.run, ["mix=mine"]) == 0
    entries = json.loads((place / "data/mine/manifest.json").read_text())["files"]
    assert entries["sft_val.parquet"]["rows"] == 100 and entries["sft_train.parquet"]["rows"] == 100


def test_the_usage_line_says_what_new_takes(capsys):
    command_line.show_help(New)
    assert "new KIND [NAME [STAGE]] [options]" in capsys.readouterr().out


def test_the_mix_is_built_from_rows_and_graded_by_the_reward(place):
    assert write("mix", "mine") == 0 and write("reward") == 0
    rows = [{"question": f"How much is {n} times {n + 3}?", "answer": str(n * (n + 3))} for n in range(250)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert command_line.main(Prep, prep.run, ["mix=conf/mix/mine.yaml", "reward=my_reward.py"]) == 0
    manifest = json.loads((place / "data/mine/manifest.json").read_text())
    counted = {name: entry["rows"] for name, entry in manifest["files"].items() if "rows" in entry}
    assert counted == {"test.parquet": 100, "rl_val.parquet": 100, "rl_train.parquet": 50}
    assert manifest["reward"]["name"] == "my_reward.py:compute_score"
