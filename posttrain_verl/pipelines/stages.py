"""The stages of a pipeline. Each looks for what it leaves before it does anything, so that a pipeline goes on where it ended."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import data_prep
from data_prep import manifest
from posttrain_verl import compose as composing
from posttrain_verl.compose import Composed
from posttrain_verl.evaluation.result import read as read_result
from posttrain_verl.exporting.on_demand import cache_of, has_folder, newest, weights_of
from posttrain_verl.pipelines.journal import Journal
from posttrain_verl.pipelines.spec import TEST, Spec, seeded, value_of
from posttrain_verl.prep import told
from posttrain_verl.problem import InputError, Problem, WorkFailed
from posttrain_verl.run import environment
from posttrain_verl.run.checkpoints import has_weights
from posttrain_verl.run.folder import DONE, RunFolder, replace
from posttrain_verl.run.metrics import MetricsTail
from posttrain_verl.watch.watch import words_unattended

POLL_SECONDS = 1.0
LABELS = ("base", "sft", "rl")


class StageFailed(WorkFailed):
    """A verb did not end well; its own last line said why."""

    def __init__(self, name: str, code: int):
        super().__init__(f"{name} ended with exit code {code}")
        self.code = code


@dataclass
class Pipeline:
    """One pipeline in its folder: `runs` with a run for each recipe, `eval`, `export`, report.html, pipeline.json."""

    spec: Spec
    home: Path
    journal: Journal
    say: Callable[[str], None]

    def composed(self, stage: str) -> Composed:
        """The launch of "sft" or "rl"; the model of the latter is that of its recipe."""
        recipe = {"sft": self.spec.sft, "rl": self.spec.rl}[stage]
        return composing.compose([f"recipe={recipe}", *self.words(stage)])

    def words(self, stage: str) -> list[str]:
        given = self.spec.words.get("all", []) + self.spec.words.get(stage, [])
        kept = [word for word in given if word.partition("=")[0] != "posttrain.data_dir"]
        data_dir = value_of(given, "posttrain.data_dir", "data")
        return [
            *kept,
            *seeded(self.spec, stage, data_dir),
            f"posttrain.runs_dir={self.home / 'runs'}",
            "posttrain.run_id=0",
        ]

    def run_of(self, stage: str) -> RunFolder:
        return RunFolder(self.home / "runs" / {"sft": self.spec.sft, "rl": self.spec.rl}[stage] / "0")


def prep(it: Pipeline) -> None:
    """Build the mixes of both launches that are not built yet."""
    for composed in (it.composed("sft"), it.composed("rl")):
        mix: Any = OmegaConf.to_container(composed.posttrain.mix)
        if not data_prep.is_complete(composed.data_dir, mix):
            it.say(f"building the mix {mix['name']} in {composed.data_dir}")
            with told(f"the mix {mix['name']} cannot be built"):
                data_prep.build(mix, composed.data_dir, progress=it.say)


def inspect(it: Pipeline) -> None:
    """Somebody must have looked at the rows.

    Raises:
        InputError: nobody has; the command that shows them is the remedy.
    """
    problems = []
    for composed in {stage.data_dir: stage for stage in (it.composed("sft"), it.composed("rl"))}.values():
        if it.spec.require_inspected and not manifest.read(composed.data_dir).get("inspected"):
            look = f"python -m posttrain_verl.inspect mix={composed.choices['mix']} --approve"
            where = f"posttrain.data_dir={composed.data_dir.parent}"
            what = f"nobody has looked at the rows of {composed.data_dir}"
            remedy = f"{look} {where}\nand the same command again; or require_inspected=false"
            problems.append(Problem(what, remedy))
    if problems:
        raise InputError("the pipeline waits", problems)


def sft(it: Pipeline) -> None:
    """Train until the end or the plateau."""
    rule = it.spec.plateau
    words = [f"recipe={it.spec.sft}", *it.words("sft"), *words_unattended(it.composed("sft").posttrain.watch)]
    if rule:  # every validation has its checkpoint, and the best one is still there when the plateau is seen
        every = OmegaConf.select(it.composed("sft").verl, "trainer.save_freq")
        words += [f"trainer.test_freq={every}", f"trainer.max_ckpt_to_keep={rule.patience + 1}"]
    train(it, "sft", words, on_plateau if rule else None)


def rl(it: Pipeline) -> None:
    """Train from the chosen checkpoint of SFT."""
    words = [word for word in it.words("rl") if not word.startswith("base_model=")]  # which is that of SFT
    words += words_unattended(it.composed("rl").posttrain.watch)
    train(it, "rl", [f"recipe={it.spec.rl}", f"base_model={chosen(it)}", *words], None)


def train(it: Pipeline, stage: str, words: list[str], ends: Callable[[Pipeline, list[float]], bool] | None) -> None:
    """Launch, or go on with, the run of a stage; a run that is done, or was ended by its plateau, stays as it is."""
    run = it.run_of(stage)
    it.journal.note(stage, run=str(run.path.relative_to(it.home)))
    if is_trained(it, stage):
        return
    resumed = [f"run={run.path}"] if run.config.is_file() else words
    code = follow(it, run, [sys.executable, "-m", "posttrain_verl.launch", *resumed], ends)
    if code and not is_trained(it, stage):
        raise StageFailed(stage, code)


def is_trained(it: Pipeline, stage: str) -> bool:
    run = it.run_of(stage)
    ended = (run.path / "status.json").is_file() and run.read_status().state == DONE
    return ended or (stage == "sft" and (it.home / "plateau.json").is_file())


def follow(
    it: Pipeline, run: RunFolder, command: list[str], ends: Callable[[Pipeline, list[float]], bool] | None
) -> int:
    """Run a launch to its end, or until `ends` says of its validations that it is enough; the exit code."""
    tail, values = MetricsTail(run.metrics), []
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            for _, data in tail.read() if ends else ():
                values += [data[it.spec.plateau.metric]] if it.spec.plateau and it.spec.plateau.metric in data else []
            if ends and ends(it, values):
                process.send_signal(signal.SIGINT)
                ends = None
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    return process.returncode


def on_plateau(it: Pipeline, values: list[float]) -> bool:
    """Whether SFT has given what it can; written down, so that it is not begun again."""
    rule = it.spec.plateau
    if rule is None or not rule.reached(values):
        return False
    it.say(f"plateau: {rule.metric} {', '.join(f'{value:.4g}' for value in values)}; SFT ends here")
    replace(it.home / "plateau.json", json.dumps({"metric": rule.metric, "values": values}) + "\n")
    return True


def choose(it: Pipeline) -> None:
    """The checkpoint of SFT that answers most validation questions of the RL mix right; the only one where there is one."""
    file = it.home / "chosen.json"
    if file.is_file() and Path(json.loads(file.read_text())["folder"]).is_dir():
        return
    run = it.run_of("sft")
    steps = saved(run)
    if not steps:
        raise InputError(
            "nothing to go on from", [Problem(f"{run.checkpoints} holds no checkpoint", "set sft:trainer.save_freq")]
        )
    folders = {step: weights_of(run, "sft", step, it.say) for step in steps}
    scores = (
        {step: held_out(it, folder, step) for step, folder in folders.items()} if len(steps) > 1 else {steps[0]: None}
    )
    best = max(steps, key=lambda step: (scores[step] or 0.0, step))
    if len(steps) > 1:
        it.say(f"SFT's checkpoints on held-out questions: {scores}; step {best} goes on")
    replace(file, json.dumps({"folder": str(folders[best]), "step": best, "held_out": scores}) + "\n")
    for step in set(steps) - {best}:  # their checkpoints stay, and can be exported again
        shutil.rmtree(cache_of(run, step), ignore_errors=True)


def chosen(it: Pipeline) -> Path:
    return Path(json.loads((it.home / "chosen.json").read_text())["folder"])


def saved(run: RunFolder) -> list[int]:
    """The steps of SFT with weights: a plateau may have ended it while it wrote one more."""
    folders = {step: run.shards("sft", step) for step in run.checkpoint_steps()}
    return [step for step, folder in folders.items() if has_weights(folder) or has_folder(folder)]


def held_out(it: Pipeline, folder: Path, step: int) -> float:
    """Accuracy of a checkpoint on the validation questions of the RL mix."""
    questions = it.composed("rl").data_dir / "rl_val.parquet"
    out = it.home / "held_out" / f"step-{step}.json"
    return accuracy_of(it, str(folder), str(questions), f"step-{step}", out)


def evaluate(it: Pipeline) -> None:
    """Base, SFT and RL on the same questions."""
    composed, names = it.composed("rl"), list(it.spec.evals)
    if any(change.key == "mix" for change in composed.changes):
        it.say(
            f"this machine trains on the mix {composed.posttrain.mix.name}: its test split takes the place of {names}"
        )
        names = [TEST]
    models = {"base": it.composed("sft").model, "sft": str(chosen(it)), "rl": str(trained(it))}
    for name in names:
        questions = str(composed.data_dir / "test.parquet") if name == TEST else name
        for label in LABELS:
            accuracy_of(it, models[label], questions, label, it.home / "eval" / f"{label}-{name}.json")


def trained(it: Pipeline) -> Path:
    """What RL left as transformers loads it: VeRL's own folder of the newest checkpoint, or the export."""
    run = it.run_of("rl")
    checkpoint = run.shards("rl", newest(run, "rl"))
    if has_folder(checkpoint):
        return checkpoint / "huggingface"
    export(it)
    return it.home / "export"


def accuracy_of(it: Pipeline, model: str, questions: str, label: str, out: Path) -> float:
    """Evaluate unless the file of results is there."""
    if not out.is_file():
        data_dir = it.composed("rl").data_dir.parent
        call(it, "evaluate", [f"base_model={model}", f"eval={questions}", f"label={label}", f"posttrain.out={out}",
                              f"posttrain.data_dir={data_dir}", *it.spec.words.get("evaluate", [])])  # fmt: skip
    return read_result(out)["metrics"]["accuracy"]["value"]


def export(it: Pipeline) -> None:
    out = it.home / "export"
    if not out.is_dir():
        call(it, "export", [f"run={it.run_of('rl').path}", f"posttrain.out={out}"])


def report(it: Pipeline) -> None:
    call(it, "report", [f"run={it.home}"])


def call(it: Pipeline, verb: str, words: list[str]) -> None:
    """One of our own verbs, in a process of its own, so that its memory is free again for the next.

    Raises:
        StageFailed: its exit code is not 0.
    """
    code = subprocess.run([environment.python(), "-m", f"posttrain_verl.{verb}", *words], check=False).returncode
    if code:
        raise StageFailed(verb, code)


def of(spec: Spec) -> list[tuple[str, Callable[[Pipeline], None]]]:
    """The stages of a pipeline in their order."""
    every = (prep, inspect, sft, choose, rl, evaluate, export)
    return [(stage.__name__, stage) for stage in every if spec.export or stage is not export]
