"""The verdicts of the checks, as `preflight.json` holds them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posttrain_verl.terminal.problem import Problem, blocking, warning_lines
from posttrain_verl.verl.composed import Composed

Check = Callable[[Composed], Iterable[Problem]]


class CannotTell(Exception):
    """Raised by a check whose subject is not here, e.g. the tokenizer of a model that is not on this machine."""


@dataclass(frozen=True)
class Verdict:
    """One check. `verdict` is passed, warned, failed, skipped (the user asked for it) or unseen (`note` says why)."""

    check: str
    verdict: str
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Report:
    """The verdicts of one preflight, in the order of the checks."""

    verdicts: list[Verdict]

    @property
    def problems(self) -> list[Problem]:
        return [problem for verdict in self.verdicts for problem in verdict.problems]

    def as_dict(self) -> dict[str, Any]:
        """The content of preflight.json."""
        return {"ok": not blocking(self.problems), "checks": [asdict(verdict) for verdict in self.verdicts]}

    def write(self, run_dir: Path) -> None:
        """Write `preflight.json` into a run folder."""
        (run_dir / "preflight.json").write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")

    def lines(self, warnings: bool = True) -> list[str]:
        """Lines for a preflight that found no problem: its warnings, and which checks did not run."""
        aside: dict[tuple[str, str], list[str]] = {}
        for each in self.verdicts:
            if each.verdict in ("skipped", "unseen"):
                aside.setdefault((each.verdict, each.note), []).append(each.check)
        return (warning_lines(self.problems) if warnings else []) + [
            f"  {v}: {', '.join(names)} ({note})" for (v, note), names in aside.items()
        ]


def run_check(name: str, check: Check, composed: Composed) -> Verdict:
    """Run one check and time it."""
    started = time.perf_counter()
    try:
        found, note = list(check(composed)), ""
    except CannotTell as reason:
        found, note = [], str(reason)
    seconds = round(time.perf_counter() - started, 3)
    verdict = "unseen" if note else "failed" if blocking(found) else "warned" if found else "passed"
    return Verdict(name, verdict, seconds, found, note)
