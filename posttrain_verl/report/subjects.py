"""From a folder to its page: a run, a sweep (`sweep.json`) or a pipeline (`pipeline.json`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain_verl.paths import PIPELINE_FILE
from posttrain_verl.report import figures, findings, rollouts, run
from posttrain_verl.report.page import Member, Page, Part
from posttrain_verl.report.run import Evaluation, Files, Metrics, Run
from posttrain_verl.run.folder import RUNNING

SWEEP, PIPELINE = "sweep.json", PIPELINE_FILE
MARKS = (SWEEP, PIPELINE, *run.RUN_FILES)


def is_subject(folder: Path) -> bool:
    """Whether there is anything in the folder that a page can be made of."""
    return any((folder / name).is_file() for name in MARKS)


def member_folders(folder: Path) -> list[Path]:
    """The folders of the runs that a sweep or a pipeline names."""
    files = Files(folder)
    entries = [*files.json(SWEEP).get("members", []), *files.json(PIPELINE).get("stages", [])]
    return [folder / where for entry in entries if (where := entry.get("run") or entry.get("folder"))]


def subject_kind(folder: Path) -> tuple[str, str]:
    """`run`, `sweep` or `pipeline`, and of the last two the state of their members together."""
    for name, mark, entries in (("sweep", SWEEP, "members"), ("pipeline", PIPELINE, "stages")):
        if (folder / mark).is_file():
            return name, joint_state([str(entry.get("state")) for entry in Files(folder).json(mark).get(entries, [])])
    return "run", ""


class Reader:
    """Makes pages, and keeps what it read of each metrics.jsonl, so that a live page reads only new lines."""

    def __init__(self, limit: int = rollouts.LIMIT):
        self._limit = limit
        self._metrics: dict[Path, Metrics] = {}

    def read(self, folder: Path) -> Run:
        """The run in a folder as it is now."""
        found = Run(Files(folder), self._metrics.setdefault(folder, Metrics()).follow(folder / "metrics.jsonl"))
        if found.metrics.bad_lines:
            found.files.flaws.append(f"metrics.jsonl: {found.metrics.bad_lines} lines could not be read")
        return found

    def page(self, folder: Path, other: Path | None = None) -> Page:
        """The page of a folder; `other` is a run or pipeline whose evaluations and curves it is compared with."""
        if (folder / SWEEP).is_file():
            return self._sweep_page(Files(folder))
        if (folder / PIPELINE).is_file():
            return self._pipeline_page(Files(folder), other)
        return self._run(self.read(folder), self.read(other) if other else None)

    def _run(self, one: Run, other: Run | None) -> Page:
        shown = pair_evaluations(one.evaluations, one.name, other.evaluations, other.name) if other else one.evaluations
        compared = run.compare_evaluations(shown, one.files)
        parts = [
            Part(one.name if other else "", figures=figures.run_figures(one.metrics, own=one.own_metrics), run=one)
        ]
        if other:
            named = [(one.name, one.metrics), (other.name, other.metrics)]
            parts.insert(
                0,
                Part(
                    f"Against {other.name}",
                    "vs-",
                    figures.compare_figures(named, "vs-", (*one.own_metrics, *other.own_metrics)),
                ),
            )
        sentences = [*findings.gain_sentences(shown, compared, one.metrics), findings.end_sentence(one)]
        page = Page("run", one.name, str(one.path), one.state, sentences, evaluations=shown, compared=compared)
        page.tiles, page.parts, page.flaws = findings.headline_tiles(one), parts, one.files.flaws
        page.rollouts = rollouts.read_rollouts(one.path, one.evaluations, self._limit)
        return page

    def _pipeline_page(self, files: Files, other: Path | None) -> Page:
        stages = []
        for entry in files.json(PIPELINE).get("stages", []):
            one = self._read_member(files.path / entry["run"]) if entry.get("run") else None
            seconds = entry.get("seconds") or (one.seconds if one else None)
            why = str(entry.get("why") or "")
            stages.append(Member(str(entry.get("name")), str(entry.get("state", "")), seconds, one, why=why))
        found = run.read_evaluations(files)
        shown = pair_evaluations(found, "this", run.read_evaluations(Files(other)), other.name) if other else found
        compared = run.compare_evaluations(shown, files)
        trained = [(stage.name, stage.run) for stage in stages if stage.run]
        parts = [Part(name, f"{name}-", figures.run_figures(each.metrics, f"{name}-", each.own_metrics), each)
                 for name, each in trained]  # fmt: skip
        ends = ", ".join(f"{stage.name} {stage.state}{f' ({stage.why})' if stage.why else ''}" for stage in stages)
        state = joint_state([stage.state for stage in stages])
        title = f"pipeline {files.path.parent.name}/{files.path.name}"
        sentences = [*findings.gain_sentences(shown, compared, Metrics()), f"The stages: {ends}."]
        page = Page("pipeline", title, str(files.path), state, sentences, evaluations=shown, compared=compared)
        page.members, page.parts, page.flaws = stages, parts, [*files.flaws, *_member_flaws(stages)]
        sampled = [each.path for _, each in trained if (each.path / "rollouts").is_dir()]
        page.rollouts = rollouts.read_rollouts(sampled[-1] if sampled else files.path, found, self._limit)
        return page

    def _sweep_page(self, files: Files) -> Page:
        rows, names = findings.sweep_rows(files)
        scale, intervals = findings.intervals(rows)
        members = []
        for row, name, interval in zip(rows, names, intervals, strict=True):
            member = row.member
            one = self._read_member(Path(member.folder))
            state = one.state if one and one.state == RUNNING else member.state
            members.append(Member(name, state, member.seconds, one, row.value, row.verdict, member.why, interval))
        known = [(member.name, member.run) for member in members if member.run]
        found = [each.named(name) for name, one in known for each in one.evaluations]
        state = joint_state([member.state for member in members])
        sentences = findings.sweep_sentences(rows, names)
        page = Page("sweep", f"sweep {files.path.name}", str(files.path), state, sentences, evaluations=found)
        page.compared, page.members, page.scale = run.compare_evaluations(found, files), members, scale
        own = [metric for _, one in known for metric in one.own_metrics]
        page.parts = [Part(figures=figures.compare_figures([(name, one.metrics) for name, one in known], own=own))]
        page.flaws = [*files.flaws, *_member_flaws(members)]
        return page

    def _read_member(self, folder: Path) -> Run | None:
        return self.read(folder) if is_subject(folder) else None


def pair_evaluations(
    own: Sequence[Evaluation], name: str, others: Sequence[Evaluation], other: str
) -> list[Evaluation]:
    """The last evaluation of each set of questions of two runs, the other's first, named so that they can be distinguished."""
    final = [{each.name: each for each in found} for found in (others, own)]
    return [each.named(f"{each.label} of {run}") for found, run in zip(final, (other, name), strict=True)
            for each in found.values() if each.name in final[0].keys() & final[1].keys()]  # fmt: skip


def joint_state(states: Sequence[str]) -> str:
    """The state of several: running if one still runs, else the worst."""
    order = ("running", "failed", "interrupted", "stopped", "waiting")
    return next((state for state in order if state in states), "done" if states else "unknown")


def _member_flaws(members: Sequence[Member]) -> list[str]:
    return [f"{member.name}: {flaw}" for member in members if member.run for flaw in member.run.files.flaws]
