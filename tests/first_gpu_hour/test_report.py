"""The first GPU hour, with fakes for what only a GPU shows: what runs, what is compared, and what the report says."""

import json
from pathlib import Path

import pytest

from posttrain_verl import allocation, first_gpu_hour
from posttrain_verl.allocation import Memory
from posttrain_verl.first_gpu_hour import Part
from posttrain_verl.run.folder import RunFolder

STEP = {"train/loss": 1.5, "perf/max_memory_allocated_gb": 9.0, "perf/max_memory_reserved_gb": 11.0}


class Machine:
    """Stands for the commands of the hour: each succeeds but those named, a launch leaves a run folder."""

    def __init__(self, failing: str = "none"):
        self.failing, self.seen = failing, []

    def __call__(self, words):
        self.seen.append(list(words))
        fails = self.failing in " ".join(words)
        if "posttrain_verl.launch" in words:
            given = dict(word.split("=", 1) for word in words if "=" in word)
            folder = RunFolder.create(Path(given["posttrain.runs_dir"]) / given["recipe"] / given["posttrain.run_id"])
            folder.log.write_text("Traceback\nRuntimeError: CUDA out of memory\n")
            if not fails:
                folder.metrics.write_text("".join(json.dumps({"step": n, "data": STEP}) + "\n" for n in (1, 2)))
        return (1, "one\nfailed: no") if fails else (0, "one\n12 passed")


@pytest.fixture(autouse=True)
def plan(monkeypatch):
    monkeypatch.setattr(allocation, "planned", lambda words: 8.0)


def test_everything_runs_and_is_compared(tmp_path):
    machine = Machine()
    parts = first_gpu_hour.run("qwen2_5_0_5b_instruct", tmp_path, cpu=False, execute=machine)
    assert [part.name for part in parts] == [
        "tests",
        "check SFT",
        "train SFT",
        "check GRPO",
        "train GRPO",
        "check LoRA",
        "train LoRA",
    ]
    assert all("base_model=qwen2_5_0_5b_instruct" in words for words in machine.seen[1:])
    assert {part.name: part.memory for part in parts if part.memory} == dict.fromkeys(
        ["train SFT", "train GRPO", "train LoRA"], Memory(8.0, 9.0, 11.0))  # fmt: skip
    report = first_gpu_hour.report("qwen2_5_0_5b_instruct", ["1x80gb: torch sees 1 device"], parts, cpu=False)
    assert report.startswith("# First GPU hour: passed")
    assert "| train SFT | 8.00 | 9.00 | 11.00 | +12% |" in report
    assert "step 2: loss 1.5" in report and "no GPU" not in report


def test_a_part_that_fails_leaves_its_log_and_the_others_run(tmp_path):
    parts = first_gpu_hour.run(
        "m", tmp_path, cpu=False, execute=Machine(failing="posttrain_verl.launch recipe=gsm8k_grpo")
    )
    assert [part.name for part in parts if part.code] == ["train GRPO"]
    report = first_gpu_hour.report("m", [], parts, cpu=False)
    assert report.startswith("# First GPU hour: failed")
    assert "| train GRPO | exit code 1 |" in report
    assert "RuntimeError: CUDA out of memory" in report
    assert "| train LoRA | 8.00 |" in report


def test_on_the_cpu_the_report_says_so(tmp_path):
    report = first_gpu_hour.report("tiny", ["cpu: no NVIDIA driver"], [Part("tests", "pytest", 0, 1.0)], cpu=True)
    assert "no GPU was found, and nothing here was measured on one" in report


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


def test_an_unknown_word(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["first_gpu_hour", "bse_model=tiny"])
    assert first_gpu_hour.main() == 2
    assert "'bse_model=tiny' is no option" in capsys.readouterr().err
