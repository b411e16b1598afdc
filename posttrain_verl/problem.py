"""A user's mistake: what is wrong, and what to do about it. Collected, then shown at once."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """`what` says where and what was seen, in one line; `remedy` what to do, in one line.

    A warning is shown and keeps nothing from starting.
    """

    what: str
    remedy: str = ""
    level: Literal["problem", "warning"] = "problem"


def warning(what: str, remedy: str = "") -> Problem:
    """A problem that is shown and keeps nothing from starting."""
    return Problem(what, remedy, "warning")


def blocking(found: Sequence[Problem]) -> list[Problem]:
    """Those that keep something from starting."""
    return [problem for problem in found if problem.level == "problem"]


def one_of(word: str, known: Sequence[str], key: str = "") -> str:
    """The remedy for a name that is unknown: the nearest one, if one is near, with `key` before it, and all there are."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"{f'did you mean {key}{near[0]}? ' if near else ''}there are: {', '.join(known)}"


class InputError(Exception):
    """The user's input is wrong: exit code 2, no traceback.

    `title` names what cannot be done, e.g. "recipe 'math_grpo' cannot launch".
    """

    def __init__(self, title: str, problems: Sequence[Problem]):
        super().__init__(title)
        self.title = title
        self.problems = list(problems)

    def __str__(self) -> str:
        return render(self.title, self.problems)


class WorkFailed(Exception):
    """The work failed for a reason that its message tells whole: exit code `code`, no traceback."""

    code = 1


def render(title: str, problems: Sequence[Problem]) -> str:
    """The title with the number of problems, each problem with its remedy on a line of its own, then the warnings."""
    counted = blocking(problems)
    lines = [f"{title} ({len(counted)} problem{'s' if len(counted) != 1 else ''}):"]
    for number, problem in enumerate(counted, start=1):
        lines.append(f"  {number}. {problem.what}")
        lines += [f"     {line}" for line in problem.remedy.splitlines()]
    return "\n".join([*lines, *warning_lines(problems)])


def warning_lines(problems: Sequence[Problem]) -> list[str]:
    """The warnings among the problems, as lines to print."""
    lines = []
    for problem in problems:
        if problem.level == "warning":
            lines.append(f"  warning: {problem.what}")
            lines += [f"     {line}" for line in problem.remedy.splitlines()]
    return lines


def exit_code(work: Callable[[], int], as_json: bool = False, goes_on: str = "") -> int:
    """What a verb's process ends with: the code of `work`, 2 for a user's mistake, which is printed, 130 for Ctrl-C.

    `goes_on` says how work that failed or was interrupted is taken up again.
    """
    try:
        return work()
    except InputError as error:
        if as_json:
            problems = [vars(problem) for problem in error.problems]
            print(json.dumps({"ok": False, "title": error.title, "problems": problems}, indent=2))
        else:
            print(error, file=sys.stderr)
        return 2
    except WorkFailed as error:
        print(f"{error}; {goes_on}" if goes_on else error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"interrupted: {goes_on}" if goes_on else "interrupted", file=sys.stderr)
        return 130
