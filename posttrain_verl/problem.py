"""A user's mistake: what is wrong, and what to do about it. Collected, then shown at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """`what` says where and what was seen, in one line; `remedy` what to do, in one line."""

    what: str
    remedy: str = ""


class InputError(Exception):
    """The user's input is wrong: exit code 2, no traceback.

    `title` names what cannot be done, e.g. "recipe 'math_grpo' cannot launch".
    """

    def __init__(self, title: str, problems: list[Problem]):
        super().__init__(title)
        self.title = title
        self.problems = problems

    def __str__(self) -> str:
        return render(self.title, self.problems)


def render(title: str, problems: list[Problem]) -> str:
    """The title with the number of problems, then each problem with its remedy on a line of its own."""
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    lines = [f"{title} ({count}):"]
    for number, problem in enumerate(problems, start=1):
        lines.append(f"  {number}. {problem.what}")
        lines += [f"     {line}" for line in problem.remedy.splitlines()]
    return "\n".join(lines)
