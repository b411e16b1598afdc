"""From a folder to its page: a run, a sweep (`sweep.json`) or a pipeline (`pipeline.json`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain_verl.evaluate import comparison
from posttrain_verl.paths import PIPELINE_FILE
from posttrain_verl.report import facts, figures, findings, rollouts, run
from posttrain_verl.report.page import Member, Page, Part
from posttrain_verl.report.run import Evaluation, Files, Metrics, Run
from posttrain_verl.run.folder import RUNNING
from posttrain_verl.sweep.members import override_key, override_value
from posttrain_verl.verl.metrics import HELD_OUT_ACCURACY

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
        verdicts, shares = found.verdicts, dict[int, float]()
        if verdicts.right_at is not None and not verdicts.has_acc:  # VeRL logs rewards, and its dumps have each score
            shares = rollouts.held_out_accuracies(folder, verdicts)
        found.metrics.derived = {f"{HELD_OUT_ACCURACY}score of {verdicts.right_at} or more": shares} if shares else {}
        if found.metrics.bad_lines:
            found.files.flaws.append(f"metrics.jsonl: {found.metrics.bad_lines} lines could not be read")
        return found

    def page(self, folder: Path, other: Path | None = None) -> Page:
        """The page of a folder.

        `other` is what it is compared with: a run or pipeline, a folder of results, or a file of them.

        Raises:
            InputError: `other` does not hold anything to compare with.
        """
        if (folder / SWEEP).is_file():
            return self._sweep_page(Files(folder))
        rival = self._read_rival(other) if other else None
        if (folder / PIPELINE).is_file():
            return self._pipeline_page(Files(folder), rival)
        return self._run_page(self.read(folder), rival)

    def _read_rival(self, place: Path) -> Rival:
        if is_subject(place) and not (place / PIPELINE).is_file():
            one = self.read(place)
            return Rival(one.name, one.own_evaluations, one)
        found = [run.load_evaluation(path) for path in comparison.find_results(str(place))]
        return Rival(f"{place.parent.name}/{place.name}", found)

    def _run_page(self, one: Run, rival: Rival | None) -> Page:
        shown = one.evaluations
        parts = [
            Part(one.name if rival else "", figures=figures.run_figures(one.metrics, own=one.own_metrics), run=one)
        ]
        if rival:
            shown = pair_evaluations(one.own_evaluations, one.name, rival, one.files)
        if rival and rival.run:
            named = [(one.name, one.metrics), (rival.name, rival.run.metrics)]
            drawn = figures.compare_figures(named, "vs-", (*one.own_metrics, *rival.run.own_metrics))
            parts.insert(0, Part(f"Against {rival.name}", "vs-", drawn))
        compared = run.compare_evaluations(shown, one.files)
        sentences = [*findings.gain_sentences(shown, compared, one.metrics), *findings.remark_sentences(shown, compared),
                     findings.end_sentence(one)]  # fmt: skip
        page = Page("run", one.name, str(one.path), one.state, sentences, evaluations=shown, compared=compared)
        page.tiles, page.parts, page.flaws = findings.headline_tiles(one), parts, one.files.flaws
        page.facts = [("", facts.run_facts(one))]
        page.rollouts = rollouts.read_rollouts(one.path, one.evaluations, self._limit, one.verdicts)
        return page

    def _pipeline_page(self, files: Files, rival: Rival | None) -> Page:
        stages = []
        for entry in files.json(PIPELINE).get("stages", []):
            one = self._read_member(files.path / entry["run"]) if entry.get("run") else None
            seconds = entry.get("seconds") or (one.seconds if one else None)
            why = str(entry.get("why") or "")
            stages.append(Member(str(entry.get("name")), str(entry.get("state", "")), seconds, one, why=why))
        found = run.read_evaluations(files)
        shown = pair_evaluations(found, "this", rival, files) if rival else found
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
        page.facts = [(name, facts.run_facts(each)) for name, each in trained]
        sampled = [each for _, each in trained if (each.path / "rollouts").is_dir()]
        where, verdicts = (sampled[-1].path, sampled[-1].verdicts) if sampled else (files.path, rollouts.GRADED)
        page.rollouts = rollouts.read_rollouts(where, found, self._limit, verdicts)
        return page

    def _sweep_page(self, files: Files) -> Page:
        rows, swept = findings.sweep_rows(files)
        names = [findings.short_overrides(each) for each in swept]
        keys = list(dict.fromkeys(override_key(override) for each in swept for override in each))
        scale, intervals = findings.intervals(rows)
        members = []
        for row, name, overrides, interval in zip(rows, names, swept, intervals, strict=True):
            member = row.member
            one = self._read_member(Path(member.folder))
            state = one.state if one and one.state == RUNNING else member.state
            settings = [override_value(overrides, key) or "" for key in keys]
            judged = (row.value, row.verdict, member.why, interval)
            members.append(Member(name, state, member.seconds, one, Path(member.folder).name, settings, *judged))
        known = [(member.name, member.run) for member in members if member.run]
        found = [each.named(name) for name, one in known for each in one.own_evaluations]
        state = joint_state([member.state for member in members])
        sentences = findings.sweep_sentences(rows, names)
        page = Page("sweep", f"sweep {files.path.name}", str(files.path), state, sentences, evaluations=found)
        page.compared, page.members, page.scale = run.compare_evaluations(found, files), members, scale
        own = [metric for _, one in known for metric in one.own_metrics]
        page.parts = [Part(figures=figures.compare_figures([(name, one.metrics) for name, one in known], own=own))]
        page.flaws = [*files.flaws, *_member_flaws(members)]
        page.swept, page.facts = findings.short_keys(keys), [("", facts.shared_facts([one for _, one in known]))]
        return page

    def _read_member(self, folder: Path) -> Run | None:
        return self.read(folder) if is_subject(folder) else None


@dataclass(frozen=True)
class Rival:
    """What a run or pipeline is compared with: its name, its evaluations, and the run where it is one."""

    name: str
    evaluations: list[Evaluation]
    run: Run | None = None


def pair_evaluations(own: Sequence[Evaluation], name: str, rival: Rival, files: Files) -> list[Evaluation]:
    """The last evaluation of each set of questions that both have, the rival's first, named so that they can be distinguished.

    Where there are no two of the same set, that is a flaw of the page.
    """
    theirs, ours = ({each.name: each for each in found} for found in (rival.evaluations, own))
    if theirs and ours and not theirs.keys() & ours.keys():
        sets = " and ".join(f"{who} on {', '.join(found)}" for who, found in ((name, ours), (rival.name, theirs)))
        files.flaws.append(f"not compared: no set of questions has both evaluations; there are {sets}")
    if lacking := [who for who, found in ((name, ours), (rival.name, theirs)) if not found]:
        files.flaws.append(f"only curves are compared: {' and '.join(lacking)} was not evaluated")
    return [each.named(f"{each.label} of {whose}") for found, whose in ((theirs, rival.name), (ours, name))
            for each in found.values() if each.name in theirs.keys() & ours.keys()]  # fmt: skip


def joint_state(states: Sequence[str]) -> str:
    """The state of several: running if one still runs, else the worst."""
    order = ("running", "failed", "interrupted", "stopped", "waiting")
    return next((state for state in order if state in states), "done" if states else "unknown")


def _member_flaws(members: Sequence[Member]) -> list[str]:
    return [f"{member.name}: {flaw}" for member in members if member.run for flaw in member.run.files.flaws]
