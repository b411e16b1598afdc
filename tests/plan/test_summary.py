"""What plan.json and `check` say of the plan."""

import json

from rich.console import Console

from posttrain_verl import check
from posttrain_verl.compose import compose
from posttrain_verl.plan import summary
from posttrain_verl.run import prepare
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Check


def test_the_run_folder_holds_the_plan():
    plan = json.loads(json.dumps(prepare.plan_facts(compose(["recipe=math_grpo", "hardware=8xh100"]), None)))
    assert plan["arithmetic"]["effective_batch"] == 1280
    assert plan["memory_phases"]["rollout"] > plan["memory_phases"]["step"]
    line = next(line for line in plan["memory"] if line["line"] == "actor optimizer")
    assert line["gb"] == 7.093
    assert "7.62 B x 2 AdamW moments x 4 bytes / 8 GPUs" in line["formula"]
    assert line["source"].startswith("ZeRO")


def test_a_plan_without_a_gpu_has_arithmetic_alone():
    plan = prepare.plan_facts(compose(["recipe=math_sft", "hardware=cpu", "base_model=tiny"]), None)
    assert plan["memory"] is None
    assert plan["arithmetic"]["words"].startswith("16 rows a step")


def test_check_prints_the_plan_and_then_what_is_missing(capsys, tmp_path):
    words = ["recipe=math_grpo", "hardware=1x80gb", f"posttrain.data_dir={tmp_path}"]
    assert command_line.main(Check, check.run, words) == 2
    printed = capsys.readouterr()
    assert "actor_rollout_ref.model.lora_rank: 0 -> 32 (full fine-tuning needs" in printed.out
    assert "5120 sequences a step; 4 optimizer steps of 256 prompts; 1 GPU holds" in printed.out
    assert "vLLM KV cache" in printed.out and "there is" in printed.out
    assert "rl_train.parquet is missing" in printed.out


def test_check_as_json_holds_plan_and_problems(capsys, tmp_path):
    words = ["recipe=math_grpo", "hardware=8xh100", f"posttrain.data_dir={tmp_path}", "--json"]
    assert command_line.main(Check, check.run, words) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False and answer["problems"]
    assert answer["memory"] and answer["arithmetic"]["sequences"] == 5120


def test_the_table_fits_a_terminal_of_80_columns(capsys):
    table = summary.show_memory(compose(["recipe=math_ppo", "hardware=1x80gb"]), width=80)
    Console(width=80).print(table)
    lines = capsys.readouterr().out.splitlines()
    assert any("critic unreduced gradients" in line and "0.26" in line for line in lines)
    assert not any("…" in line for line in lines)
