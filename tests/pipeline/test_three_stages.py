"""A pipeline of three trainings and an entry of another sort, both unknown to the product and defined here.

Nothing of the product is patched: only the processes that it starts are stood in for. They leave what the real ones leave.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from posttrain_verl.compose import compose
from posttrain_verl.evaluate import comparison, grading
from posttrain_verl.evaluate.result import SCHEMA, write_result
from posttrain_verl.pipeline import __main__ as pipeline_verb
from posttrain_verl.pipeline.entry import KINDS, Entry
from posttrain_verl.pipeline.entry import Pipeline as Running
from posttrain_verl.report.page import write_page
from posttrain_verl.report.subjects import Reader
from posttrain_verl.run.folder import DONE, RunFolder, Status
from posttrain_verl.run.prepare import plan_facts
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Pipeline
from posttrain_verl.verl import stage
from posttrain_verl.verl.sft import SftStage

QUESTIONS = 200
RIGHT = {"base": 20, "sft": 60, "rft": 100, "toy": 110, "rl": 150}  # of the questions
RECIPE = """# A stage of its own on the trunk of the SFT recipes.
defaults: [/sft, override /base_model: nano_2m, override /mix: embedded, _self_]
posttrain: {stage: toy}
data: {train_batch_size: 32, max_length: 96}
trainer: {total_training_steps: 10, save_freq: 5}
"""
THREE = """
stages:
  - recipe: demo_sft
  - recipe: toy
    overrides: [optim.lr=3e-5]
  - recipe: demo_grpo
evals: [test]
require_inspected: false
evaluate: [max_tokens=64]
"""


class ToyStage(SftStage):
    """Learning from preferences, say."""

    name = "toy"

    def hardware_lists(self, settings):
        return ["sft"]


class Sampled(Entry):
    """An entry between two trainings that writes the data of the next one."""

    KEY = "sample"

    sample: int

    def steps(self, it: Running):
        yield self.name, partial(self._write, it)

    def _write(self, it: Running) -> None:
        (it.home / "sampled.parquet").write_text(f"{self.sample} rows from {it.received(self)}")

    def hand_over(self, it: Running, received: list[str]) -> list[str]:
        return [*received, f"data.train_files={it.home}/sampled.parquet"]


KINDS.pop(Sampled.KEY)  # only the tests below that ask for it know it


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Iterator[Path]:
    """The current folder, with the recipe and the pipeline, and the stage registered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTTRAIN_WARM_PYTHON", "0")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/toy.yaml").write_text(RECIPE)
    (tmp_path / "three.yaml").write_text(THREE)
    stage.register(ToyStage())
    yield tmp_path
    del stage._STAGES["toy"]


class Launched:
    """A process of `launch`, which has ended when it is looked at."""

    returncode = 0

    def __init__(self, arguments: list[str]):
        composed = compose(arguments)
        run = RunFolder.create(composed.run_dir())
        run.write_config(composed.for_run(run.path))
        run.write_plan(plan_facts(composed, None))
        for step in (5, 10):
            saved = run.shards(step) / "huggingface"
            saved.mkdir(parents=True)
            (saved / "config.json").write_text("{}")
            (saved / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        lines = [{"step": step, "data": {"train/loss": 1 / step, "val/loss": 1 / step}} for step in range(1, 11)]
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run.write_status(Status(DONE, started=1.0, ended=61.0, last_step=10))

    def poll(self) -> int:
        return self.returncode


def item(number: int, is_right: bool) -> dict:
    return {"id": f"q{number}", "sample": 0, "data_source": "math/own", "stratum": None, "question": f"{number}?",
            "answer": "#### 1", "gold": "1", "truncated": False, "tokens": 4, "score": float(is_right), "acc": float(is_right),
            "format": 1.0, "answered": 1.0, "verifier_error": 0.0, "pred": "1", "strict_acc": float(is_right),
            "flexible_acc": float(is_right), "error": None if is_right else "knowledge", "evidence": ""}  # fmt: skip


def evaluated(given: dict[str, str]) -> None:
    """What `evaluate` leaves. The first checkpoint of a run is the better one."""
    right = {"step-5": 100, "step-10": 90, **RIGHT}[given["label"]]
    items = [item(number, number < right) for number in range(QUESTIONS)]
    write_result({"schema": SCHEMA, "model": given["base_model"], "label": given["label"], "eval": "test",
                  "questions": given["eval"], "sampling": {"temperature": 0.0, "top_p": 1.0, "k": 1, "max_tokens": 64, "seed": 0},
                  "population": QUESTIONS, "n": QUESTIONS, "stratified_by": None, "noise": False,
                  "metrics": grading.compute_metrics(items, 1), "errors": grading.error_counts(items), "items": items},
                 Path(given["posttrain.out"]))  # fmt: skip


def synthesized(given: dict[str, str]) -> None:
    """What `synthesize` leaves."""
    folder = Path(given["posttrain.data_dir"], given["name"])
    folder.mkdir(parents=True)
    (folder / "sft_train.parquet").write_bytes(Path(given["mix"]).with_name("sft_train.parquet").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({"files": {"sft_train.parquet": {}}, "inspected": []}))


@pytest.fixture
def processes(monkeypatch) -> list[tuple[str, list[str]]]:
    """The verbs that are started, each with its arguments."""
    started: list[tuple[str, list[str]]] = []
    popen, run = subprocess.Popen, subprocess.run

    def verb_of(command) -> str:
        is_ours = isinstance(command, list) and command[:2] == [sys.executable, "-m"]
        return command[2].removeprefix("posttrain_verl.") if is_ours else ""

    def begin(command, *rest, **more):
        if verb_of(command) != "launch":
            return popen(command, *rest, **more)
        started.append(("launch", command[3:]))
        return Launched(command[3:])

    def call(command, *rest, **more):
        if not (verb := verb_of(command)):
            return run(command, *rest, **more)
        started.append((verb, command[3:]))
        if verb == "evaluate":
            evaluated(dict(each.split("=", 1) for each in command[3:]))
        if verb == "synthesize":
            synthesized(dict(each.split("=", 1) for each in command[3:]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "Popen", begin)
    monkeypatch.setattr(subprocess, "run", call)
    return started


def run_pipeline(*more: str) -> Path:
    code = command_line.main(Pipeline, pipeline_verb.run, ["recipe=three.yaml", "hardware=cpu", *more])
    assert code == 0
    return Path("runs/pipeline/three/0").absolute()


def launches(processes) -> list[list[str]]:
    return [arguments for verb, arguments in processes if verb == "launch"]


def values(arguments: list[str], key: str) -> list[str]:
    return [each.partition("=")[2] for each in arguments if each.startswith(f"{key}=")]


def test_three_stages_train_one_from_the_other_and_each_is_judged_against_the_one_before(
    processes, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "300")
    home = run_pipeline("toy:data.train_batch_size=16", "rl:data.seed=3")
    first, second, third = launches(processes)
    assert [arguments[0] for arguments in (first, second, third)] == [
        "recipe=demo_sft",
        "recipe=toy",
        "recipe=demo_grpo",
    ]
    assert values(first, "base_model") == []
    assert values(second, "base_model") == [str(home / "runs/demo_sft/0/checkpoints/global_step_5/huggingface")]
    assert values(third, "base_model") == [str(home / "runs/toy/0/checkpoints/global_step_5/huggingface")]
    assert [values(each, "data.train_batch_size") for each in (first, second, third)] == [[], ["16"], []]
    assert values(second, "optim.lr") == ["3e-5"] and values(third, "data.seed") == ["3"]

    names = [each["name"] for each in json.loads((home / "pipeline.json").read_text())["stages"]]
    assert names == ["prep", "inspect", "sft", "choose-sft", "toy", "choose-toy", "rl", "evaluate", "export"]
    assert sorted(file.stem for file in (home / "eval").iterdir()) == ["base-test", "rl-test", "sft-test", "toy-test"]
    results = comparison.load_results([str(home / "eval")])
    assert [result["label"] for result in results.values()] == ["base", "sft", "toy", "rl"], "not by name"
    pairs = [(each.first, each.second) for each in comparison.compare_results(results)]
    assert set(pairs) == {("base", "sft"), ("base", "toy"), ("sft", "toy"), ("base", "rl"), ("toy", "rl")}
    printed = capsys.readouterr().out
    assert "toy against sft on test: +25.0 points" in printed and "rl against toy on test: +20.0 points" in printed

    before = len(processes)
    run_pipeline()
    assert [verb for verb, _ in processes[before:]] == ["export", "report"], "all but what left nothing here is done"


def test_its_report_has_a_part_for_each_stage(processes):
    home = run_pipeline("report=false")
    page = Reader().page(home)
    assert page.state == "done"
    assert [part.heading for part in page.parts] == ["sft", "toy", "rl"]
    assert page.sentences[0].startswith("The gain is real: rl is better than base on test")
    assert "toy is better than sft on test" in " ".join(page.sentences)
    assert [each.label for each in page.evaluations] == ["base", "sft", "toy", "rl"]
    write_page(page, home / "report.html")
    assert "choose-toy" in (home / "report.html").read_text()


def test_an_unknown_key_of_the_last_stage_ends_it_before_anything_is_built(processes, capsys):
    code = command_line.main(Pipeline, pipeline_verb.run, ["recipe=three.yaml", "hardware=cpu", "rl:data.sed=3"])
    assert code == 2 and "data.sed is not a key of VeRL" in capsys.readouterr().err
    assert processes == [] and not Path("data").exists()


def test_an_entry_of_another_sort_is_one_class(processes, monkeypatch, place):
    monkeypatch.setitem(KINDS, Sampled.KEY, Sampled)
    text = THREE.replace("  - recipe: toy\n    overrides: [optim.lr=3e-5]\n", "  - sample: 100\n")
    (place / "three.yaml").write_text(text)
    home = run_pipeline("report=false", "export=false")
    _, second = launches(processes)
    run = home / "runs/demo_sft/0"
    chosen = [f"base_model={run}/checkpoints/global_step_5/huggingface", "posttrain.base_model.name='demo_sft-0-5'",
              f"posttrain.base_model.run='{run}'"]  # fmt: skip
    assert (home / "sampled.parquet").read_text() == f"100 rows from {chosen}"
    assert second[:5] == ["recipe=demo_grpo", *chosen, f"data.train_files={home}/sampled.parquet"]
    config = OmegaConf.load(home / "runs/demo_grpo/0/config.yaml")
    assert config.data.train_files == f"{home}/sampled.parquet"
    names = [each["name"] for each in json.loads((home / "pipeline.json").read_text())["stages"]]
    assert names == ["prep", "inspect", "sft", "choose-sft", "sample", "rl", "evaluate"]


RFT = """
stages:
  - recipe: demo_sft
  - synthesize: 8
    begin: base
    overrides: [keep=2]
  - recipe: demo_sft
    name: rft
  - recipe: demo_grpo
evals: [test]
require_inspected: false
"""


def test_own_answers_are_trained_on_beside_the_mix(processes, place):
    (place / "three.yaml").write_text(RFT)
    home = run_pipeline("synthesize:pairs=0", "report=false", "export=false")
    (asked,) = [dict(each.split("=", 1) for each in arguments) for verb, arguments in processes if verb == "synthesize"]
    assert asked["mix"] == str(place / "data/embedded/rl_train.parquet")
    assert asked["base_model"] == str(home / "runs/demo_sft/0/checkpoints/global_step_5/huggingface")
    assert (asked["n"], asked["keep"], asked["pairs"]) == ("8", "2", "0")
    first, second, third = launches(processes)
    assert values(second, "base_model") == [], "the model of its recipe, not the one that was asked"
    files = [str(place / "data/embedded/sft_train.parquet"), str(home / "synthesized/synthesize/sft_train.parquet")]
    assert list(OmegaConf.load(home / "runs/demo_sft/1/config.yaml").data.train_files) == files
    assert OmegaConf.load(home / "runs/demo_sft/1/config.yaml").data.val_files == files[0].replace(
        "sft_train", "sft_val"
    )
    assert values(third, "base_model") == [str(home / "runs/demo_sft/1/checkpoints/global_step_5/huggingface")]
    assert values(third, "data.train_files") == [] == values(first, "data.train_files")
    before = len(processes)
    run_pipeline("report=false", "export=false")
    assert processes[before:] == [], "all of it is done"


def test_the_training_after_it_may_continue_from_the_model_that_was_asked(processes, place):
    (place / "three.yaml").write_text(RFT.replace("    begin: base\n", ""))
    home = run_pipeline("report=false", "export=false")
    chosen = str(home / "runs/demo_sft/0/checkpoints/global_step_5/huggingface")
    assert values(launches(processes)[1], "base_model") == [chosen]


def test_the_pipeline_waits_until_somebody_has_looked_at_its_own_answers(processes, place, capsys):
    (place / "three.yaml").write_text(RFT)
    given = ["recipe=three.yaml", "hardware=cpu"]
    assert command_line.main(Pipeline, pipeline_verb.run, [*given, "synthesize:keep=1"]) == 0
    home = place / "runs/pipeline/three/0"
    shutil.rmtree(home / "runs/demo_sft/1")
    manifest = json.loads((place / "data/embedded/manifest.json").read_text())
    (place / "data/embedded/manifest.json").write_text(json.dumps(manifest | {"inspected": [{"who": "me"}]}))
    assert command_line.main(Pipeline, pipeline_verb.run, [*given, "require_inspected=true"]) == 2
    said = capsys.readouterr().err
    assert f"nobody has looked at the rows of {home}/synthesized/synthesize" in said
    assert f"posttrain_verl.inspect mix={home}/synthesized/synthesize --approve" in said


def test_a_wrong_override_of_synthesize_is_named_before_anything_runs(processes, place, capsys):
    (place / "three.yaml").write_text(RFT)
    assert command_line.main(Pipeline, pipeline_verb.run, ["recipe=three.yaml", "synthesize:kep=3"]) == 2
    said = capsys.readouterr().err
    assert "'synthesize:kep=3' is not an option of synthesize" in said and "did you mean keep?" in said
    assert processes == []


def test_a_list_without_a_training_is_refused(capsys, monkeypatch, place):
    monkeypatch.setitem(KINDS, Sampled.KEY, Sampled)
    (place / "three.yaml").write_text("stages: [{sample: 100}]\nevals: [test]\n")
    assert command_line.main(Pipeline, pipeline_verb.run, ["recipe=three.yaml"]) == 2
    said = capsys.readouterr().err
    assert "three.yaml has no stage that trains" in said and "- {recipe: NAME}" in said


def test_without_its_class_such_an_entry_is_refused(capsys, place):
    (place / "three.yaml").write_text("stages: [{sample: 100}]\nevals: [test]\n")
    assert command_line.main(Pipeline, pipeline_verb.run, ["recipe=three.yaml"]) == 2
    assert "stages[0]: does not say what it does" in capsys.readouterr().err
