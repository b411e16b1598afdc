"""What the checks found, and which of them could not look: what `preflight.json` holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posttrain_verl.compose import Composed
from posttrain_verl.problem import Problem, blocking, warning_lines

Check = Callable[[Composed], Iterable[Problem]]


class CannotTell(Exception):
    """Raised by a check that has nothing to look at here, e.g. the tokenizer of a model that is not on this machine."""


@dataclass(frozen=True)
class Verdict:
    """One check: `verdict` is passed, warned, failed, skipped (the user's wish) or unseen (`note` says why)."""

    check: str
    verdict: str
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Report:
    """The verdicts of one preflight, in the order in which the checks ran."""

    verdicts: list[Verdict]

    @property
    def problems(self) -> list[Problem]:
        """Problems and warnings of all checks."""
        return [problem for verdict in self.verdicts for problem in verdict.problems]

    def as_dict(self) -> dict[str, Any]:
        """The content of preflight.json."""
        return {"ok": not blocking(self.problems), "checks": [asdict(verdict) for verdict in self.verdicts]}

    def write(self, run_dir: Path) -> None:
        """Write `preflight.json` into a run folder."""
        (run_dir / "preflight.json").write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")

    def lines(self) -> list[str]:
        """What is worth saying of a preflight that found no problem: warnings, and what was not looked at."""
        aside: dict[tuple[str, str], list[str]] = {}
        for each in self.verdicts:
            if each.verdict in ("skipped", "unseen"):
                aside.setdefault((each.verdict, each.note), []).append(each.check)
        return warning_lines(self.problems) + [
            f"  {v}: {', '.join(names)} ({note})" for (v, note), names in aside.items()
        ]


def look(name: str, check: Check, composed: Composed) -> Verdict:
    """Run one check and time it."""
    started = time.perf_counter()
    try:
        found, note = list(check(composed)), ""
    except CannotTell as reason:
        found, note = [], str(reason)
    seconds = round(time.perf_counter() - started, 3)
    return Verdict(name, "unseen" if note else _verdict(found), seconds, found, note)


def _verdict(found: list[Problem]) -> str:
    if blocking(found):
        return "failed"
    return "warned" if found else "passed"
