"""A user's mistake: what is wrong, and what to do about it. Collected, then shown at once."""

from __future__ import annotations

import difflib
import errno
import json
import os
import pwd
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import data_prep


@dataclass(frozen=True)
class Problem:
    """`what` says in one line where the problem is and what was seen, and `remedy` what to do.

    A warning is shown and does not prevent a start.
    """

    what: str
    remedy: str = ""
    level: Literal["problem", "warning"] = "problem"


def warning(what: str, remedy: str = "") -> Problem:
    """A problem that is shown and does not prevent a start."""
    return Problem(what, remedy, "warning")


def blocking(found: Sequence[Problem]) -> list[Problem]:
    """The problems that prevent a start."""
    return [problem for problem in found if problem.level == "problem"]


def located(found: Iterable[data_prep.Problem]) -> list[Problem]:
    """Problems of data or of a declaration, each in one line with its place."""
    return [Problem(f"{each.where}: {each.what}", each.remedy) for each in found]


def one_of(name: str, known: Sequence[str], key: str = "") -> str:
    """The remedy for an unknown name: the nearest known one with `key` before it, if one is near, and all known ones."""
    return f"{did_you_mean(name, known, key)}there are: {', '.join(known)}"


def did_you_mean(name: str, known: Sequence[str], key: str = "") -> str:
    """The nearest known name as a question, with `key` before it; "" if none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {key}{near[0]}? " if near else ""


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
    """The work failed, and the message says all of the reason: exit code `code`, no traceback."""

    code = 1
    resumes = True  # whether the same command continues where the work ended


@contextmanager
def without_permission() -> Iterator[None]:
    """Raises InputError in the place of a PermissionError: a file or folder, as a run, belongs to another user."""
    try:
        yield
    except PermissionError as error:
        raise InputError("no permission", [_closed_problem(error)]) from error


def _closed_problem(error: PermissionError) -> Problem:
    if not error.filename:  # a process
        return Problem(f"what is asked for belongs to another user ({error.strerror})", "ask its owner")
    file = Path(str(error.filename))
    owner = "another user"
    with suppress(OSError, KeyError):
        there = next(each for each in (file, *file.absolute().parents) if os.path.lexists(each))
        owner = pwd.getpwuid(there.stat().st_uid).pw_name
    remedy = "ask for it, or work on a copy; `report` and `evaluate` write elsewhere with out=FILE"
    return Problem(f"{file} is not open to you; it belongs to {owner}", remedy)


def render(title: str, problems: Sequence[Problem]) -> str:
    """The title with the number of problems, each problem and below it its remedy, then the warnings."""
    counted = blocking(problems)
    lines = [f"{title} ({len(counted)} problem{'s' if len(counted) != 1 else ''}):"]
    for number, problem in enumerate(counted, start=1):
        lines += [f"  {number}. {problem.what}", *(f"     {line}" for line in problem.remedy.splitlines())]
    return "\n".join([*lines, *warning_lines(problems)])


def is_problem_title(line: str) -> bool:
    """Whether a line is the first one of `render`, as in the log of a command that was refused elsewhere."""
    return bool(re.search(r"\(\d+ problems?\):$", line))


def warning_lines(problems: Sequence[Problem]) -> list[str]:
    """The warnings among the problems, as lines to print."""
    lines = []
    for problem in problems:
        if problem.level == "warning":
            lines += [f"  warning: {problem.what}", *(f"     {line}" for line in problem.remedy.splitlines())]
    return lines


_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # it is full, or may not be written to


def exit_code(work: Callable[[], int], as_json: bool = False, resume_hint: str = "") -> int:
    """The exit code of a verb: that of `work`, 2 for a user's mistake, which is printed, or 130 for Ctrl-C.

    `resume_hint` says how work that failed or was interrupted continues.
    """
    try:
        with without_permission():
            return work()
    except InputError as error:
        if as_json:
            problems = [vars(problem) for problem in error.problems]
            print(json.dumps({"ok": False, "title": error.title, "problems": problems}, indent=2))
        else:
            sys.stdout.flush()  # what was said before it comes first, also where both go to one file
            print(error, file=sys.stderr)
        return 2
    except WorkFailed as error:
        print(f"{error}; {resume_hint}" if resume_hint and error.resumes else error, file=sys.stderr)
        return error.code
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        said = f"nothing more can be written{where}: {os.strerror(error.errno or 0)}"
        print(f"{said}; {resume_hint}" if resume_hint else said, file=sys.stderr)
        return WorkFailed.code
    except KeyboardInterrupt:
        print(f"interrupted: {resume_hint}" if resume_hint else "interrupted", file=sys.stderr)
        return 130
