"""A stage that the product does not know goes through every verb: preferences on VeRL's SFT trunk, defined here.

Nothing of the verbs is patched. What a stage module declares is in docs/verl.md, "Add a stage".
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from posttrain_verl import base_models, check, launch
from posttrain_verl.compose import compose
from posttrain_verl.preflight import CHECKS, run_checks
from posttrain_verl.report import __main__ as report_verb
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.prepare import plan_facts
from posttrain_verl.sweep.members import Result, read_result
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError, Problem, blocking
from posttrain_verl.verbs import Check, Launch, Report
from posttrain_verl.verl import stage
from posttrain_verl.verl.checkpoints import METRICS_VARIABLE, STAGE_VARIABLE, PruneAfterSave
from posttrain_verl.verl.job import Batch, counted
from posttrain_verl.verl.metrics import Metric
from posttrain_verl.verl.row_terms import MeasuredLength, RowLimit
from posttrain_verl.verl.settings import Setting, SftModel
from posttrain_verl.verl.stage import Settings, Stage
from posttrain_verl.watch.metric_rules import make_metric_rules
from posttrain_verl.watch.watcher import watch_settings

STEPS = 10
MARGIN = Metric("train/margin", "Margin", "margin", rises=True, why="between the better and the worse conversation")
TALK = [{"role": "user", "content": "12+34="}, {"role": "assistant", "content": "46"}]
RECIPE = """# Preferences on the trunk of the SFT recipes.
defaults:
  - /sft
  - override /mix: embedded
  - _self_
posttrain: {stage: toy}
data: {train_files: pairs/train.parquet, val_files: pairs/val.parquet, train_batch_size: 32, max_length: 512}
optim: {lr: 1e-6}
trainer: {total_epochs: 1, save_freq: 5}
"""


class ToySettings(Settings):
    """Pairs of a better and a worse conversation; `beta` says how far the model may move from where it began."""

    model_types = (SftModel,)
    length_names = ("max_length",)

    max_length = Setting[int]("data.max_length")
    chosen = Setting[str]("data.chosen_key", default="chosen")
    rejected = Setting[str]("data.rejected_key", default="rejected")
    beta = Setting[float]("preference.beta", default=0.1)

    @property
    def columns(self) -> dict[str, str]:
        return {self.chosen: "chat", self.rejected: "chat"}

    @classmethod
    def measured_lengths(cls) -> tuple[MeasuredLength, ...]:
        return (MeasuredLength("longest pair", "train/longest", cls.key("max_length")),)

    @property
    def row_limit(self) -> RowLimit:
        return RowLimit(self.key("max_length"), self.max_length, True, "cut", self.override("truncation", "right"))

    def batch(self) -> Batch:
        return self._count_batch(rollouts=2, noun="sequence")

    def describe_step(self) -> str:
        return f"{counted(self.train_batch_size, 'pair')} = {counted(self.batch().sequences, 'sequence')} a step"

    def training_problems(self) -> Iterator[Problem]:
        yield from super().training_problems()
        if self.beta <= 0:
            yield Problem(f"{self.override('beta')}: every pair would be the same", self.override("beta", 0.1))


class ToyStage(Stage):
    """Learning from preferences."""

    name = "toy"
    trunk = "sft_trainer_engine"
    settings_type = ToySettings
    cpus_per_device = 10
    usual_lr = (1e-7, 1e-5)
    headline = MARGIN
    own_metrics = (MARGIN,)

    def hardware_lists(self, settings: Settings) -> list[str]:
        return ["sft"]


@pytest.fixture(autouse=True)
def registered():
    stage.register(ToyStage())
    yield
    del stage._STAGES["toy"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with the recipe and its data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/toy.yaml").write_text(RECIPE)
    write_pairs(tmp_path, {"chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "a guess"}]})
    base_models.ensure_model("tiny")
    return tmp_path


def write_pairs(folder: Path, row: dict) -> None:
    (folder / "pairs").mkdir(exist_ok=True)
    for name in ("train", "val"):
        pq.write_table(pa.Table.from_pylist([row] * 32 * STEPS), folder / f"pairs/{name}.parquet")


def overrides(*more: str, hardware: str = "8xh100") -> list[str]:
    return ["recipe=toy", "base_model=tiny", f"hardware={hardware}", "posttrain.run_id=it", *more]


def whats(*more: str, hardware: str = "8xh100") -> list[str]:
    report = run_checks(compose(overrides(*more, hardware=hardware)))
    return [problem.what for problem in blocking(report.problems)]


def test_it_composes(folder):
    composed = compose(overrides())
    assert (composed.stage.name, composed.model) == ("toy", "tiny")
    assert (composed.settings.beta, composed.settings.longest) == (0.1, 512)
    config = composed.for_run(composed.run_dir())
    assert config.preference.beta == 0.1 and config.data.chosen_key == "chosen"  # VeRL's own process reads them
    assert config.data.train_files == str(folder / "pairs/train.parquet")
    assert compose(overrides("preference.beta=0.5")).settings.beta == 0.5
    assert compose(overrides(hardware="cpu")).settings.device == "cpu"


@pytest.mark.parametrize("name", ["toyy", "checks"])  # neither a module nor a stage; a module that registers none
def test_an_unknown_stage_is_named(name):
    with pytest.raises(InputError, match=f"posttrain.stage={name} is not a stage"):
        compose(overrides(f"posttrain.stage={name}"))


@pytest.mark.parametrize(("hardware", "seen"), [("8xh100", ("memory",)), ("cpu", ("machine", "compiler"))])
def test_every_check_looks(hardware, seen):
    verdicts = {verdict.check: verdict for verdict in run_checks(compose(overrides(hardware=hardware))).verdicts}
    assert verdicts.keys() == CHECKS.keys()
    looked = ("keys", "shape", "values", "model", "data", "tokenizer", "lengths", "rewards", "batch", "engine", "architecture",
              "attention", "training", "schedule", *seen)  # fmt: skip
    assert {name: verdicts[name].verdict for name in looked} == dict.fromkeys(looked, "passed")
    assert not [problem for verdict in verdicts.values() for problem in blocking(verdict.problems)]


def test_the_checks_know_its_keys_its_columns_and_its_rules(folder):
    assert "preference.betta is no" in whats("preference.betta=1")[0]
    assert "preference.beta=much is no" in whats("preference.beta=much")[0]
    assert whats("preference.beta=0") == ["preference.beta=0: every pair would be the same"]
    assert "does not divide by 8 data-parallel GPUs" in whats("data.train_batch_size=12")[0]
    assert "needs a CUDA device" in whats("engine.strategy=fsdp", hardware="cpu")[0]
    write_pairs(folder, {"chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "9" * 600}]})
    assert "rows of data.train_files are longer than data.max_length=512 tokens" in whats()[0]
    write_pairs(folder, {"chosen": TALK})
    assert "has no column rejected; it has chosen" in whats()[0]


def test_the_plan_has_its_batch_and_its_memory(capsys):
    assert command_line.main(Check, check.run, overrides("base_model=qwen2_5_7b_instruct")) == 0
    printed = capsys.readouterr().out
    assert "recipe toy (recipes/toy.yaml): TOY\n  model          Qwen/Qwen2.5-7B-Instruct" in printed
    assert "32 pairs = 64 sequences a step; 8 GPUs hold 8192 tokens each, 8 sequences of full length" in printed
    assert f"  steps          {STEPS}\n" in printed
    plan = plan_facts(compose(overrides()), None)
    assert plan["stage"] == "toy" and plan["total_steps"] == STEPS
    assert plan["arithmetic"]["effective_batch"] == 64
    assert {"model optimizer", "model activations"} <= {row["line"] for row in plan["memory"]}
    assert plan["memory_phases"].keys() == {"update", "step", "host"}


def test_a_dry_run_prints_the_script_of_slurm(folder, capsys):
    before = set(folder.rglob("*"))
    assert command_line.main(Launch, launch.run, [*overrides("cluster=slurm"), "--dry-run"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#!/bin/bash\n#SBATCH --job-name=toy") and "recipe=toy" in script
    assert set(folder.rglob("*")) == before


def test_a_finished_run_is_read_and_reported(folder, capsys):
    composed = compose(overrides())
    run = RunFolder.create(composed.run_dir())
    run.write_plan(plan_facts(composed, None))
    OmegaConf.save(composed.for_run(run.path), run.path / "config.yaml")
    measured = {"val/loss": 0.71, "train/margin": 0.5, "train/longest": 321}
    lines = [{"step": step + 1, "data": {"train/loss": 0.7 - 0.02 * step, **measured}} for step in range(STEPS)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status = {"state": "done", "started": 1.0, "ended": 61.0, "last_step": STEPS, "why": ""}
    (run.path / "status.json").write_text(json.dumps(status))
    assert run.stage.name == "toy" and run.read_settings().beta == 0.1
    assert command_line.main(Report, report_verb.run, ["run=toy/it"]) == 0
    assert "report.html" in capsys.readouterr().out
    page = (run.path / "report.html").read_text()
    assert "toy" in page and "Held-out loss" in page
    assert "longest pair (tokens)" in page and "321" in page and "between the better and the worse conversation" in page
    assert read_result(run.path) == Result("train/margin", 0.5, STEPS, rises=True)  # what a sweep ranks it by


def test_the_watch_names_its_keys():
    composed = compose(overrides())
    rules = make_metric_rules(watch_settings(plan_facts(composed, None)), composed.settings)
    assert "data.max_length" in rules["sft_zero_loss"].why


def test_its_old_checkpoints_go_by_its_own_numbers(folder, monkeypatch):
    """VeRL's callback gets the config alone, which does not name the stage."""
    home = folder / "run/checkpoints"
    config = compose(overrides()).for_run(home.parent)
    config.trainer.max_ckpt_to_keep = 1
    monkeypatch.setenv(METRICS_VARIABLE, str(home.parent / "metrics.jsonl"))
    monkeypatch.setenv(STAGE_VARIABLE, "toy")
    callback = PruneAfterSave(config)
    for step in (5, 10):
        (home / f"global_step_{step}").mkdir(parents=True)
        callback.on_save(step)
    assert [path.name for path in home.iterdir()] == ["global_step_10"]
