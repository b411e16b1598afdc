"""From a folder to its page: a run, a sweep (`sweep.json`) or a pipeline (`pipeline.json`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain_verl.reporting import evaluations, facts, figures, rollouts, run, verdict
from posttrain_verl.reporting.evaluations import Evaluation
from posttrain_verl.reporting.files import Files, Record
from posttrain_verl.reporting.page import Page, Part
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
    return [_located(folder, where) for entry in entries if (where := _where(entry))]


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
        return Page("run", one.name, str(one.path), one.state, verdict.of_run(one, shown, compared), facts.tiles(one),
                    shown, compared, [], parts,
                    rollouts.read(one.path, one.evaluations, self._limit), one.files.flaws)  # fmt: skip

    def _pipeline(self, files: Files, other: Path | None) -> Page:
        described = files.json(PIPELINE)
        stages = [self._member(files.path, stage) for stage in described.get("stages", [])]
        found = evaluations.read(files)
        shown = against(found, "this", evaluations.read(Files(other)), other.name) if other else found
        compared = evaluations.compare(shown, files)
        trained = [stage for stage in stages if stage["read"]]
        parts = [part_of(stage["read"], f"{stage['name']}-", stage["name"]) for stage in trained]
        ends = ", ".join(f"{stage['name']} {stage['state']}" for stage in stages)
        state = _worst([stage["state"] for stage in stages])
        answered = trained[-1]["read"].path if trained else files.path
        return Page("pipeline", f"pipeline {files.path.parent.name}/{files.path.name}", str(files.path), state,
                    verdict.of_pipeline(shown, compared, f"The stages: {ends}."), [], shown, compared, stages, parts,
                    rollouts.read(answered, found, self._limit), [*files.flaws, *_flaws(trained)])  # fmt: skip

    def _sweep(self, files: Files) -> Page:
        members = [self._member(files.path, member) for member in files.json(SWEEP).get("members", [])]
        known = [member for member in members if member["read"]]
        named = [(member["name"], member["read"].metrics) for member in known]
        found = [each.named(member["name"]) for member in known for each in member["read"].evaluations]
        state = _worst([member["state"] for member in members])
        return Page("sweep", f"sweep {files.path.name}", str(files.path), state, _best(known), [], found,
                    evaluations.compare(found, files), members, [Part(figures=figures.compared(named))],
                    flaws=[*files.flaws, *_flaws(known)])  # fmt: skip

    def _member(self, home: Path, entry: Record) -> Record:
        """A run of a sweep or a stage of a pipeline, with its run if it left one."""
        where = _where(entry)
        folder = _located(home, where) if where else None
        read = self.read(folder) if folder and is_subject(folder) else None
        overrides = entry.get("overrides") or []
        words = _short(overrides.split() if isinstance(overrides, str) else [str(word) for word in overrides])
        seconds = entry.get("seconds") or (read.seconds if read else None)
        return {
            "name": str(entry.get("name") or words or where or "?"),
            "state": str(entry.get("state") or (read.state if read else "")),
            "seconds": seconds, "read": read, "results": results(read) if read else {},
        }  # fmt: skip


def against(own: Sequence[Evaluation], name: str, others: Sequence[Evaluation], other: str) -> list[Evaluation]:
    """The last evaluation of each set of questions of two runs, the other's first, named so that they can be told apart."""
    final = [{each.name: each for each in found} for found in (others, own)]
    return [each.named(f"{each.label} of {run}") for found, run in zip(final, (other, name), strict=True)
            for each in found.values() if each.name in final[0].keys() & final[1].keys()]  # fmt: skip


def results(one: Run) -> dict[str, float]:
    """The last value of what runs are compared by."""
    keys = ["critic/score/mean", *one.metrics.keys("val-core/"), "val/loss"]
    return {key: float(values[-1]) for key in keys if len(values := one.metrics[key].finite)}


def part_of(one: Run, prefix: str = "", heading: str = "") -> Part:
    """What a page shows of one run."""
    manifest = one.manifest
    return Part(heading, prefix, figures.of_run(one.metrics, prefix), one.events, facts.planned(one), facts.checks(one), manifest,
                facts.sources(manifest), facts.splits(manifest), [str(word) for word in one.plan.get("overrides") or []],
                list(one.plan.get("changes") or []),
                one.files.text("config.yaml"))  # fmt: skip


def _best(members: Sequence[Record]) -> list[str]:
    """Which member of a sweep stands best, with the warning that the best of many is partly luck."""
    for prefix, sign in (("val-core/", 1), ("critic/score/mean", 1), ("val/loss", -1)):
        scored = [(sign * value, member["name"], key, value) for member in members
                  for key, value in member["results"].items() if key.startswith(prefix)]  # fmt: skip
        if scored:
            _, name, key, value = max(scored)
            return [f"Of {len(members)} runs {name} ends best: {key} {value:.4g}.",
                    "The best of several is partly luck: evaluate it and the next on the same questions."]  # fmt: skip
    return ["No run of this sweep has measured anything yet."]


def _short(words: Sequence[str]) -> str:
    """Overrides with the last part of their keys, where that does not make two alike."""
    short = [
        word.split("=", 1)[0].rsplit(".", 1)[-1] + word[word.index("=") :] if "=" in word else word for word in words
    ]
    return " ".join(short if len({word.split("=")[0] for word in short}) == len(short) else words)


def _worst(states: Sequence[str]) -> str:
    order = ("running", "failed", "interrupted", "stopped", "pruned", "pending")
    return next((state for state in order if state in states), "done" if states else "unknown")


def _where(entry: Record) -> str | None:
    return entry.get("run") or entry.get("folder")


def _located(home: Path, where: str) -> Path:
    """A path as it is, from the current folder or from the folder that names it."""
    given = Path(where)
    return next((path for path in (given, home / given) if path.is_dir()), given)


def _flaws(members: Sequence[Record]) -> list[str]:
    return [f"{member['name']}: {flaw}" for member in members for flaw in member["read"].files.flaws]
