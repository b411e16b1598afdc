"""From a folder to its page: a run, a sweep (`sweep.json`) or a pipeline (`pipeline.json`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain_verl.reporting import evaluations, facts, figures, rollouts, run, sweeps, verdict
from posttrain_verl.reporting.evaluations import Evaluation
from posttrain_verl.reporting.files import Files, Record
from posttrain_verl.reporting.page import Member, Page, Part
from posttrain_verl.reporting.run import Run
from posttrain_verl.reporting.series import Metrics

SWEEP, PIPELINE = "sweep.json", "pipeline.json"
MARKS = (SWEEP, PIPELINE, *run.FILES)


def is_subject(folder: Path) -> bool:
    """Whether there is anything in the folder that a page can be made of."""
    return any((folder / name).is_file() for name in MARKS)


def members(folder: Path) -> list[Path]:
    """The folders of the runs that a sweep or a pipeline names."""
    files = Files(folder)
    entries = [*files.json(SWEEP).get("members", []), *files.json(PIPELINE).get("stages", [])]
    return [folder / where for entry in entries if (where := entry.get("run") or entry.get("folder"))]


def kind(folder: Path) -> tuple[str, str]:
    """`run`, `sweep` or `pipeline`, and of the last two the state of their members together."""
    for name, mark, entries in (("sweep", SWEEP, "members"), ("pipeline", PIPELINE, "stages")):
        if (folder / mark).is_file():
            return name, together([str(entry.get("state")) for entry in Files(folder).json(mark).get(entries, [])])
    return "run", ""


class Reader:
    """Makes pages, and keeps what it read of each metrics.jsonl, so that a live page reads only new lines."""

    def __init__(self, limit: int = rollouts.LIMIT):
        self._limit = limit
        self._metrics: dict[Path, Metrics] = {}

    def read(self, folder: Path) -> Run:
        """The run in a folder."""
        return run.read(folder, self._metrics.setdefault(folder, Metrics()))

    def page(self, folder: Path, other: Path | None = None) -> Page:
        """The page of a folder; `other` is a run or pipeline whose evaluations and curves it is compared with."""
        if (folder / SWEEP).is_file():
            return self._sweep(Files(folder))
        if (folder / PIPELINE).is_file():
            return self._pipeline(Files(folder), other)
        return self._run(self.read(folder), self.read(other) if other else None)

    def _run(self, one: Run, other: Run | None) -> Page:
        shown = against(one.evaluations, one.name, other.evaluations, other.name) if other else one.evaluations
        compared = evaluations.compare(shown, one.files)
        part = part_of(one)
        parts = [part]
        if other:
            named = [(one.name, one.metrics), (other.name, other.metrics)]
            parts.insert(0, Part(f"Against {other.name}", "vs-", figures.compared(named, "vs-")))
            part.heading = one.name
        return Page(
            "run",
            one.name,
            str(one.path),
            one.state,
            verdict.of_run(one, shown, compared),
            tiles=facts.tiles(one),
            evaluations=shown,
            compared=compared,
            parts=parts,
            rollouts=rollouts.read(one.path, one.evaluations, self._limit),
            flaws=one.files.flaws,
        )

    def _pipeline(self, files: Files, other: Path | None) -> Page:
        described = files.json(PIPELINE)
        stages = [self._stage(files.path, stage) for stage in described.get("stages", [])]
        found = evaluations.read(files)
        shown = against(found, "this", evaluations.read(Files(other)), other.name) if other else found
        compared = evaluations.compare(shown, files)
        trained = [(stage.name, stage.run) for stage in stages if stage.run]
        parts = [part_of(each, f"{name}-", name) for name, each in trained]
        ends = ", ".join(f"{stage.name} {stage.state}{f' ({stage.why})' if stage.why else ''}" for stage in stages)
        state = together([stage.state for stage in stages])
        answered = trained[-1][1].path if trained else files.path
        return Page(
            "pipeline",
            f"pipeline {files.path.parent.name}/{files.path.name}",
            str(files.path),
            state,
            verdict.of_pipeline(shown, compared, f"The stages: {ends}."),
            evaluations=shown,
            compared=compared,
            members=stages,
            parts=parts,
            rollouts=rollouts.read(answered, found, self._limit),
            flaws=[*files.flaws, *_flaws(stages)],
        )

    def _sweep(self, files: Files) -> Page:
        rows, names = sweeps.rows(files)
        members = [self._of_sweep(row, name) for row, name in zip(rows, names, strict=True)]
        known = [(member.name, member.run) for member in members if member.run]
        found = [each.named(name) for name, one in known for each in one.evaluations]
        state = together([member.state for member in members])
        curves = figures.compared([(name, one.metrics) for name, one in known])
        return Page(
            "sweep",
            f"sweep {files.path.name}",
            str(files.path),
            state,
            sweeps.sentences(rows, names),
            evaluations=found,
            compared=evaluations.compare(found, files),
            members=members,
            parts=[Part(figures=curves)],
            flaws=[*files.flaws, *_flaws(members)],
        )

    def _of_sweep(self, row: sweeps.Row, name: str) -> Member:
        member = row.member
        one = self._in(Path(member.folder))
        state = one.state if one and one.is_live else member.state
        return Member(name, state, member.seconds, one, row.value, row.verdict, member.why)

    def _stage(self, home: Path, entry: Record) -> Member:
        where = entry.get("run")
        one = self._in(home / where) if where else None
        seconds = entry.get("seconds") or (one.seconds if one else None)
        return Member(
            str(entry.get("name")), str(entry.get("state", "")), seconds, one, why=str(entry.get("why") or "")
        )

    def _in(self, folder: Path) -> Run | None:
        return self.read(folder) if is_subject(folder) else None


def against(own: Sequence[Evaluation], name: str, others: Sequence[Evaluation], other: str) -> list[Evaluation]:
    """The last evaluation of each set of questions of two runs, the other's first, named so that they can be told apart."""
    final = [{each.name: each for each in found} for found in (others, own)]
    return [each.named(f"{each.label} of {run}") for found, run in zip(final, (other, name), strict=True)
            for each in found.values() if each.name in final[0].keys() & final[1].keys()]  # fmt: skip


def part_of(one: Run, prefix: str = "", heading: str = "") -> Part:
    """What a page shows of one run."""
    plan, manifest = one.plan, one.manifest
    return Part(
        heading=heading,
        prefix=prefix,
        figures=figures.of_run(one.metrics, prefix),
        events=one.events,
        planned=facts.planned(one),
        arithmetic=facts.arithmetic(one),
        memory=list(plan.get("memory") or []),
        checks=facts.checks(one),
        manifest=manifest,
        sources=facts.sources(manifest),
        splits=facts.splits(manifest),
        overrides=[str(word) for word in plan.get("overrides") or []],
        changes=list(plan.get("changes") or []),
        config=one.files.text("config.yaml"),
    )


def together(states: Sequence[str]) -> str:
    """The state of several: what still goes on, else the worst."""
    order = ("running", "failed", "interrupted", "stopped", "waiting")
    return next((state for state in order if state in states), "done" if states else "unknown")


def _flaws(members: Sequence[Member]) -> list[str]:
    return [f"{member.name}: {flaw}" for member in members if member.run for flaw in member.run.files.flaws]
