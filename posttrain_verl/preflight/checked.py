"""The result of checking a launch: its problems, and the facts of its plan, typed. The verb `check` prints it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain_verl import preflight
from posttrain_verl.plan import summary
from posttrain_verl.plan.memory import Table
from posttrain_verl.preflight import capacity, data, overview, training
from posttrain_verl.preflight.report import Report
from posttrain_verl.terminal.problem import Problem, blocking, render, warning_lines
from posttrain_verl.verl.composed import Change, Composed
from posttrain_verl.verl.job import Batch


@dataclass(frozen=True)
class CheckResult:
    """What a check found. `problems` prevent a launch and `warnings` do not; `ok` is true without problems.

    `overview` says in lines what a launch will do, `to_build` are files that it builds first, and `changes` is what the hardware
    set. `report` has a verdict for each check. The numbers are None where they cannot be read: where the config or the batch has
    problems, or where `steps` needs data and `memory` a shape that are not here. `memory` counts bytes of one GPU by phase of a
    step, and `disk_bytes` is what the run needs at most.
    """

    recipe: str
    stage: str
    model: str
    mix: str
    hardware: str
    problems: list[Problem]
    warnings: list[Problem]
    changes: list[Change]
    to_build: list[Path]
    overview: list[str] = field(repr=False)
    report: Report = field(repr=False)
    steps: int | None = None
    batch: Batch | None = None
    memory: Table | None = field(default=None, repr=False)
    disk_bytes: int | None = None
    plan: dict[str, Any] = field(default_factory=dict, repr=False)  # the numbers as plain data, for `as_dict`

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def title(self) -> str:
        return f"recipe '{self.recipe}' {'can' if self.ok else 'cannot'} launch"

    def __str__(self) -> str:
        """What a launch will do, whether it can, and each problem and warning with its remedy."""
        verdict = self.title if self.ok else render(self.title, self.problems)
        return "\n".join([*self.overview, verdict, *warning_lines(self.warnings)])

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data: what `check --json` prints."""
        facts = {name: getattr(self, name) for name in ("ok", "title", "recipe", "stage", "model", "mix", "hardware")}
        return facts | {
            "to_build": [str(file) for file in self.to_build],
            "changes": [vars(change) for change in self.changes],
            "problems": [vars(problem) for problem in self.problems],
            "warnings": [vars(problem) for problem in self.warnings],
            "checks": self.report.as_dict()["checks"],
            **self.plan,
        }


def check_launch(composed: Composed) -> CheckResult:
    """Run every check on a composed launch, and plan it. Nothing is started, and no problem of the recipe raises."""
    report = preflight.run_checks(composed)
    problems = blocking(report.problems)
    return CheckResult(
        recipe=composed.recipe,
        stage=composed.stage.name,
        model=composed.model,
        mix=composed.posttrain.mix.name,
        hardware=composed.posttrain.hardware.name,
        problems=problems,
        warnings=[problem for problem in report.problems if problem not in problems],
        changes=composed.changes,
        to_build=_files_to_build(composed),
        overview=overview.overview_lines(composed),
        report=report,
        **(_plan_facts(composed) if _is_sound(report) else {}),
    )


def _plan_facts(composed: Composed) -> dict[str, Any]:
    """The fields of a result that are numbers, which can be read where the config is sound."""
    steps, needed = training.count_steps(composed), capacity.count_needed_bytes(composed)
    try:
        memory = summary.plan_memory(composed)
    except summary.MemoryUnknown:
        memory = None
    plan = {
        "batch": summary.batch_in_words(composed),
        "steps": steps,
        **summary.summarize_plan(composed),
        "disk": {"bytes": needed, "words": capacity.describe_disk(composed)},
    }
    return {"steps": steps, "batch": composed.settings.batch(), "memory": memory, "disk_bytes": needed, "plan": plan}


def _is_sound(report: Report) -> bool:
    """Whether the numbers can be read: the tree has VeRL's form and the batch arithmetic holds."""
    verdicts = {verdict.check: verdict.verdict for verdict in report.verdicts}
    return all(verdicts.get(name) in ("passed", "warned") for name in ("shape", "batch"))


def _files_to_build(composed: Composed) -> list[Path]:
    """The files of an offline mix that are not there."""
    if not data.is_offline(composed):
        return []
    return [file for file in data.list_mix_files(composed) if not file.is_file()]
