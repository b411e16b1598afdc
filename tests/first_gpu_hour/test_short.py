"""The short mode for a GPU that is not here: what it would start, and what it makes of what the processes write."""

import json
from functools import cache
from pathlib import Path

import pytest

from posttrain_verl.compose import compose
from posttrain_verl.first_gpu_hour import hour_parts, modes
from posttrain_verl.first_gpu_hour.hour_parts import FAILED, NOT_RUN, OUT_OF_TIME, PASSED
from posttrain_verl.first_gpu_hour.modes import Figures
from posttrain_verl.machine import devices
from posttrain_verl.machine.devices import Device, Machine, MachineFacts

MODELS = ["qwen2_5_0_5b_instruct", "qwen2_5_1_5b_instruct"]
H200 = Machine(
    "auto", "torch sees 1 devices", MachineFacts((Device("NVIDIA H200", 139.8, (9, 0)),), torch=1, host_memory_gb=128)
)
CPU = Machine("cpu", "no NVIDIA driver")
GROWTH = {1024: 20.0, 4096: 23.0, 8192: 27.0}  # GB at the tokens of a micro batch: one MiB a token
RATES = {"device": "NVIDIA H200", "matmul_tflops": 780.0, "copy_gb_s": 4300.0}


def step(largest: int, seconds: float = 1.0, micro_batches: int = 1, **more) -> dict:
    return {"tokens": largest * micro_batches, "largest": largest, "micro_batches": micro_batches, "seconds": seconds,
            "allocated": GROWTH[largest], "reserved": GROWTH[largest] + 1, "tflops": 390 / seconds, "loss": 11.9,
            "grad_norm": 1.0, "verl_mfu": 0.4} | more  # fmt: skip


STEPS = [step(1024, 9.0), step(1024), step(4096), step(8192, 2.0), step(8192, 1.0), step(8192, 1.0),
         step(8192, 3.0, 3, allocated=29.0)]  # fmt: skip


class Processes:
    """Stands for the processes: each writes what it measured; `codes` says how those end that do not end well."""

    def __init__(self, codes: dict[str, int | None] | None = None, rows: float = 0.01, steps=STEPS):
        self.codes, self.rows, self.steps = codes or {}, rows, steps

    def __call__(self, command, seconds, log):
        log.write_text("a line\nTraceback: torch.OutOfMemoryError")
        code = next((code for word, code in self.codes.items() if word in log.name), 0)
        if "training_steps" not in command[2]:
            Path(command[3]).write_text(json.dumps(RATES))
            return code
        order = json.loads(Path(command[3]).read_text())
        measured = {"device": "NVIDIA H200", "attention": "varlen", "strategy": "fsdp2", "peak_tflops": 989.0, "missing": ["ray"],
                    "seconds_to_start": 20.0, "rows": {}, "steps": self.steps if order["batches"] else []}  # fmt: skip
        if order["compare_rows"]:
            measured["rows"] = {"packed_against_padded_sdpa": self.rows, "run_together": 0.3}
        Path(order["out"]).write_text(json.dumps(measured))
        return code


@cache
def composed_once(words, fixed, machine):
    """Composing is most of the time of these tests; nothing changes what was composed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "detect_machine", lambda: machine)
        return compose([*words], fixed)


def run(home: Path, machine: Machine = H200, models=MODELS, seconds: float = 720, **kwargs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "compose", lambda words, fixed: composed_once(tuple(words), fixed, machine))
        return modes.run_short(models, home, machine, seconds, Processes(**kwargs))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    home = tmp_path_factory.mktemp("hour")
    parts, table = run(home)
    return parts, table, home


def test_all_kinds_of_steps_are_ordered_with_the_settings_of_the_recipes(whole):
    parts, _, home = whole
    assert [part.name.partition(",")[0] for part in parts] == [
        "device", "attention", "SFT", "LoRA", "SFT", "LoRA", "SFT without checkpointing", "FSDP2 with offload_policy",
        "FSDP2 with VeRL's offload", "FSDP1"]  # fmt: skip
    assert {part.state for part in parts} == {PASSED}
    sft = json.loads((home / "SFT_qwen2_5_1_5b_instruct.order.json").read_text())
    assert sft["verl"]["model"]["override_config"]["attn_implementation"] == "varlen"
    assert (sft["verl"]["data"]["max_token_len_per_gpu"], sft["verl"]["engine"]["strategy"]) == (16384, "fsdp2")
    assert sft["model_config"]["hidden_size"] == 1536
    lora = json.loads((home / "LoRA_qwen2_5_1_5b_instruct.order.json").read_text())
    assert lora["verl"]["model"]["lora_rank"] == 32


def test_the_plan_is_taken_at_the_tokens_of_each_step(whole):
    planned = [each["planned"] for each in whole[0][2].measured["steps"]]
    assert planned[0] == planned[1] < planned[2] < planned[3] == planned[6]


def test_the_table_leaves_out_the_first_step_and_takes_the_median_of_the_largest():
    figures = Figures.of([one | {"planned": 30.0} for one in STEPS])
    assert (figures.largest, figures.seconds, figures.tokens_a_second) == (8192, 1.0, 8192)
    assert figures.memory.allocated == 27.0 and figures.several.allocated == 29.0
    assert figures.kib_a_token == (0, 1024)


def test_the_report_holds_the_rate_against_the_datasheet_and_the_matrix_product(whole):
    parts, table, _ = whole
    row = next(line for line in table if line.startswith("| SFT, qwen2_5_0_5b_instruct"))
    assert "| 390.0 | 39% | 50% |" in row
    told = hour_parts.report_markdown(MODELS, ["H200"], parts, False, table)
    assert told.startswith("# First GPU hour: passed")
    found = json.loads(hour_parts.report_json(MODELS, ["H200"], parts, False))
    assert found["verdict"] == "passed" and found["parts"][2]["measured"]["steps"][0]["planned"]


def test_a_process_that_ran_out_of_memory_or_time_keeps_what_it_measured(tmp_path):
    codes = {"LoRA_qwen2_5_0_5b": 1, "SFT_qwen2_5_1_5b": None}
    parts, table = run(tmp_path, codes=codes, steps=STEPS[:4])
    states = {part.name: part.state for part in parts}
    assert states["LoRA, qwen2_5_0_5b_instruct"] == FAILED
    assert states["SFT, qwen2_5_1_5b_instruct"] == OUT_OF_TIME
    assert states["FSDP1, qwen2_5_1_5b_instruct"] == PASSED, "the others run"
    assert len([line for line in table if "| 8192 |" in line]) == 8, "both have their row"
    told = hour_parts.report_markdown(MODELS, [], parts, False, table)
    assert "torch.OutOfMemoryError" in told and "- LoRA, qwen2_5_0_5b_instruct: exit code 1" in told


def test_one_step_alone_is_no_measurement():
    assert Figures.of([step(8192, planned=30.0)]) is None and Figures.of([]) is None


@pytest.mark.parametrize(("rows", "state"), [(0.01, PASSED), (0.2, FAILED), (float("nan"), FAILED)])
def test_packed_rows_that_differ_are_a_failure(tmp_path, rows, state):
    parts, _ = run(tmp_path, rows=rows, models=MODELS[:1])
    assert parts[1].state == state


def test_without_time_it_says_what_was_not_measured(tmp_path):
    parts, table = run(tmp_path, seconds=8)
    assert {part.state for part in parts} == {NOT_RUN}
    told = hour_parts.report_markdown(MODELS, [], parts, False, table)
    assert told.startswith("# First GPU hour: incomplete") and told.count("s of the budget were left") == 2 * len(parts)


def test_on_a_cpu_what_needs_a_gpu_is_named_and_the_recipes_attention_is_kept(tmp_path):
    parts, table = run(tmp_path, machine=CPU, models=["tiny"])
    assert [part.why for part in parts if part.state == NOT_RUN] == ["needs a GPU"] * 3
    sft = json.loads((tmp_path / "SFT_tiny.order.json").read_text())
    assert sft["verl"]["model"]["override_config"]["attn_implementation"] == "varlen"
    assert sft["verl"]["model"]["use_remove_padding"] and sft["verl"]["data"]["use_dynamic_bsz"]
    assert hour_parts.report_markdown(["tiny"], [], parts, True, table).startswith(
        "# First GPU hour: rehearsed on a CPU"
    )


def test_a_model_that_is_not_there_is_said(tmp_path):
    parts, _ = run(tmp_path, models=["nosuch"])
    assert parts[1].state == FAILED and parts[1].why == "does not compose" and parts[1].lines


def test_one_device_is_used(monkeypatch):
    for given, taken in (("2,3", "2"), ("", ""), (None, "0")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if given is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        modes.use_one_device()
        assert modes.os.environ["CUDA_VISIBLE_DEVICES"] == taken
