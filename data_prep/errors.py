"""The one error users of this room see: every problem found, each with its place and its remedy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What is wrong, where it was seen (source, row, key), and what to do about it."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return "\n     ".join([f"{self.where}: {self.what}", *self.remedy.splitlines()])


class DataError(Exception):
    """The input cannot be built. Carries all problems that were found, not only the first."""

    def __init__(self, *problems: Problem):
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1))
