"""The first screen of check and launch."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain_verl import check
from posttrain_verl.compose import compose
from posttrain_verl.preflight.overview import overview_lines
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Check


def header(*words: str) -> dict[str, str]:
    lines = overview_lines(compose(list(words)))
    return {
        "title": lines[0],
        **{line[2:16].strip(): line[17:] for line in lines if line.startswith("  ") and ": " not in line[:17]},
    }


def test_it_names_what_a_run_is():
    said = header("recipe=math_grpo", "hardware=8xh100", "trainer.total_training_steps=50")
    assert said["title"] == "recipe math_grpo: RL with GRPO"
    assert said["model"] == "Qwen/Qwen2-7B-Instruct (7.62 B parameters), full fine-tuning"
    assert said["a step"].startswith("1024 prompts x 5 rollouts = 5120 sequences a step")
    assert (said["learning rate"], said["steps"]) == ("1e-06", "50")
    assert said["hardware"] == "8xh100 (1 x 8 devices of 79.1 GB, NVLink)"


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (["recipe=math_sft"], "recipe math_sft: SFT"),
        (["recipe=math_ppo"], "recipe math_ppo: RL with PPO, which trains a critic (algorithm.adv_estimator=gae)"),
    ],
)
def test_the_algorithm_is_named(words, title):
    assert header(*words, "hardware=8xh100")["title"] == title


def test_a_recipe_without_an_estimator_is_ppo_and_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("defaults: [/rl, _self_]\n")
    said = header("recipe=own.yaml", "hardware=8xh100")
    assert said["title"] == "recipe own (own.yaml): RL with PPO, which trains a critic (algorithm.adv_estimator=gae)"


def test_the_rows_of_the_users_own_files(tmp_path):
    turns = [[{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "#### 5"}]]
    for name, rows in (("train", 32), ("val", 8)):
        pq.write_table(pa.table({"messages": turns * rows}), tmp_path / f"{name}.parquet")
    files = [f"data.{name}_files={tmp_path}/{name}.parquet" for name in ("train", "val")]
    assert (
        header("recipe=math_sft", "hardware=cpu", *files)["data"]
        == "files of your own: 32 rows to train on, 8 to validate"
    )


def test_changes_of_the_experiment_come_first_and_the_others_are_counted():
    composed = compose(["recipe=math_grpo", "hardware=cpu"])
    short, full = overview_lines(composed), overview_lines(composed, all_changes=True)
    first = short.index("hardware=cpu changes the experiment:")
    assert short[first + 1].startswith("  base_model: qwen2_7b_instruct -> smollm2_135m")
    assert any(line.startswith("  data.train_batch_size: 1024 -> 8") for line in short)
    assert not any("use_remove_padding" in line for line in short) and short[-1].endswith("--changes shows them")
    assert any("use_remove_padding" in line for line in full)
    assert sum(": " in line and " -> " in line for line in full) == len(composed.changes)


def test_problems_come_before_the_tables_on_one_stream(capsys):
    words = ["recipe=math_grpo", "hardware=8xh100", "data.train_batch_size=100"]
    assert command_line.main(Check, check.run, words) == 2
    said = capsys.readouterr()
    assert said.err == "" and "can launch" not in said.out
    assert said.out.index("recipe math_grpo: RL") < said.out.index("cannot launch (") < said.out.index("unseen:")


def test_weights_of_a_run_are_called_by_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = ["posttrain.base_model.name='my_sft-first-9'", f"posttrain.base_model.run='{tmp_path}/runs/my_sft/first'"]
    said = header("recipe=math_grpo", "hardware=8xh100", f"base_model={tmp_path}", *run)
    assert said["model"] == "my_sft-first-9, trained by runs/my_sft/first, full fine-tuning"
