"""The full mode, with fakes for what only a GPU shows: what runs, what is compared, and what the report says."""

import json
import re
from functools import cache
from pathlib import Path

import pytest

from posttrain_verl.compose import compose
from posttrain_verl.first_gpu_hour import allocation, hour_parts, modes
from posttrain_verl.first_gpu_hour.allocation import Memory
from posttrain_verl.first_gpu_hour.hour_parts import FAILED, NOT_RUN, PASSED, Part
from posttrain_verl.machine import devices
from posttrain_verl.machine.devices import Device, Machine, MachineFacts
from posttrain_verl.run.folder import RunFolder

STEP = {"train/loss": 1.5, "perf/max_memory_allocated_gb": 9.0, "perf/max_memory_reserved_gb": 11.0,
        "train/global_tokens": 3000, "perf/total_num_tokens": 3000}  # fmt: skip
DEVICE = Device("NVIDIA H100 80GB HBM3", 79.1, (9, 0))
GPU = Machine(
    "auto", "torch sees 1 devices", MachineFacts(devices=(DEVICE,), torch=1, usable=(DEVICE,), host_memory_gb=200)
)
CPU = Machine("cpu", "no GPU of NVIDIA")


class Commands:
    """Stands for the commands of the hour: each succeeds but those named, a launch leaves a run folder."""

    def __init__(self, failing: str = "none", skipped: int = 0):
        self.failing, self.skipped, self.seen = failing, skipped, []

    def __call__(self, words, seconds, log):
        self.seen.append(list(words))
        fails = self.failing in " ".join(words)
        log.write_text("one\nfailed: no" if fails else "one\n12 passed")
        given = dict(word.split("=", 1) for word in words if "=" in word)
        if "pytest" in words:
            Path(given["--junitxml"]).write_text(
                f'<testsuites><testsuite tests="5" skipped="{self.skipped}" failures="0" errors="0" /></testsuites>'
            )
        if "posttrain_verl.launch" in words:
            folder = RunFolder.create(Path(given["posttrain.runs_dir"]) / given["recipe"] / given["posttrain.run_id"])
            folder.log.write_text("Traceback\nRuntimeError: CUDA out of memory\n")
            if not fails:
                folder.metrics.write_text("".join(json.dumps({"step": n, "data": STEP}) + "\n" for n in (1, 2)))
        return 1 if fails else 0


@cache
def composed_once(words, machine):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "detect_machine", lambda: machine)
        return compose([*words])


@pytest.fixture(autouse=True)
def plan(monkeypatch):
    """The plan says 8 GB."""
    monkeypatch.setattr(allocation, "planned_peak", lambda asked: 8.0 if asked else None)


def run_full(home, machine, commands):
    """Composing is most of the time of these tests: each launch is composed once, whatever the folder of the test."""
    place = re.compile("posttrain.(runs_dir|data_dir)=")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "compose", lambda words: composed_once(
            tuple(word for word in words if not place.match(word)), machine))  # fmt: skip
        return modes.run_full(["qwen2_5_0_5b_instruct"], home, machine, 3600, commands)


def run(home, machine=GPU, **kwargs):
    commands = Commands(**kwargs)
    parts, tables = run_full(home, machine, commands)
    return parts, hour_parts.report_markdown(["m"], ["1x80gb"], parts, machine is CPU, tables), commands.seen


def test_everything_runs_in_an_hour_and_is_compared_at_the_tokens_that_were_trained(tmp_path):
    parts, told, seen = run(tmp_path)
    names = ["tests", "check SFT", "train SFT", "check GRPO", "train GRPO", "check LoRA", "train LoRA"]
    assert [part.name for part in parts] == names
    assert all("base_model=qwen2_5_0_5b_instruct" in words for words in seen[1:])
    # Two mini batches of GRPO; LoRA has micro batches of 8 of its 64 x 5 rollouts.
    tokens = {part.name: part.memory.tokens for part in parts if part.memory}
    assert tokens == {"train SFT": 3000, "train GRPO": 1500, "train LoRA": 3000 // 40}
    assert told.startswith("# First GPU hour: passed")
    assert "| train SFT | 3000 | 8.00 | 9.00 | 11.00 | +12% |" in told
    assert "step 2: loss 1.5" in told and "no GPU" not in told


def test_every_part_has_a_share_of_the_hour(tmp_path):
    parts = modes.full_parts("m", tmp_path, cpu=False)
    total = sum(part.share for part in parts)
    assert all(part.share / total * 3600 > 45 for part in parts)


def test_a_part_that_fails_leaves_its_log_and_the_others_run(tmp_path):
    parts, told, _ = run(tmp_path, failing="posttrain_verl.launch recipe=gsm8k_grpo")
    assert [part.name for part in parts if part.state == FAILED] == ["train GRPO"]
    assert told.startswith("# First GPU hour: failed")
    assert "| train GRPO | failed, exit code 1 |" in told
    assert "RuntimeError: CUDA out of memory" in told
    assert "| train LoRA | 75 | 8.00 |" in told


def test_tests_that_were_all_skipped_are_no_pass(tmp_path):
    parts, told, _ = run(tmp_path, skipped=5)
    assert (parts[0].state, parts[0].why) == (NOT_RUN, "all 5 tests were skipped")
    assert told.startswith("# First GPU hour: incomplete")


def test_some_skipped_tests_are_a_pass(tmp_path):
    assert run(tmp_path, skipped=4)[0][0].state == PASSED


def test_tests_that_are_not_there_are_no_pass(tmp_path):
    def nothing_collected(words, seconds, log):
        return 5 if "pytest" in words else Commands()(words, seconds, log)

    parts, _ = run_full(tmp_path, GPU, nothing_collected)
    assert parts[0].state == FAILED and "no test ran" in parts[0].why


def test_on_the_cpu_nothing_is_said_to_have_passed_on_a_gpu(tmp_path):
    _, told, seen = run(tmp_path, machine=CPU)
    assert told.startswith("# First GPU hour: rehearsed on a CPU")
    assert "no GPU was found, and nothing here was measured on one" in told
    assert not [words for words in seen if "pytest" in words]


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ([PASSED, PASSED], "passed"),
        ([PASSED, NOT_RUN], "incomplete"),
        ([PASSED, "out of time"], "incomplete"),
        ([FAILED, NOT_RUN], "failed"),
        ([], "incomplete"),
    ],
)
def test_the_verdict_on_the_hour(states, verdict):
    assert (
        hour_parts.overall_verdict([Part("p", ["command"], 1, state=state) for state in states], cpu=False) == verdict
    )


@pytest.mark.parametrize(
    ("memory", "verdict"),
    [
        (Memory(8.0, 9.0, 9.5), "+12%"),
        (Memory(8.0, 4.0, 9.5), "-50% **outside the tolerance**"),
        (Memory(8.0, 10.5, 11.0), "+31% **outside the tolerance**"),
        (Memory(None, 9.0, 9.5), "not comparable"),
        (Memory(8.0, None, None), "not comparable"),
    ],
)
def test_the_verdict_on_a_plan(memory, verdict):
    assert memory.verdict == verdict
