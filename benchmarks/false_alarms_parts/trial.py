"""One launch under a condition, and what became of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from posttrain_verl.run.folder import RunFolder
from posttrain_verl.verl import progress

SFT, RL = "math_sft", "math_grpo"


class Skipped(Exception):
    """The machine cannot give what a condition needs."""


def nothing() -> None:
    """What a condition does that only needs to be there from the start."""


@dataclass
class Trial:
    """What a condition changes about a launch: before it, and while it runs by `tick`, which is called every half second.

    `prefix` stands before the command, `words` behind it, and win over the benchmark's own. `reward` is the body of the reward
    function. `proof` says that the condition was in force.
    """

    recipe: str
    number: int
    folder: Path
    home: Path
    runs: Path
    prefix: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    reward: str = "pass"
    tick: Callable[[], None] = nothing
    proof: str = ""

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.runs / self.recipe / "it")

    @property
    def stage(self) -> str:
        return progress.read_activity(self.run.activity_file)[0]

    @property
    def stage_since(self) -> float:
        """By the driver's clock."""
        return progress.read_activity(self.run.activity_file)[1]

    @property
    def steps(self) -> int:
        """How many steps were measured."""
        return len(lines_of(self.run.metrics))

    def also(self, act: Callable[[], object]) -> None:
        """Act at every tick, after what acts already."""
        before = self.tick

        def tick() -> None:
            before()
            act()

        self.tick = tick

    def once(self, due: Callable[[], bool], act: Callable[[], object]) -> None:
        """Act the first time that it is due."""
        left = [act]
        self.also(lambda: left.pop()() if left and due() else None)


@dataclass
class Result:
    """How one run ended: done, stopped or skipped. `stops` and `warnings` are what the watch said."""

    condition: str
    recipe: str
    state: str
    seconds: float = 0.0
    stops: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    proof: str = ""

    @property
    def line(self) -> str:
        facts = [*self.stops, *(f"warning {one}" for one in self.warnings), self.proof]
        return f"{self.condition:20s}{self.recipe:11s}{self.state:8s}{self.seconds:6.0f} s  {'; '.join(filter(None, facts))}"


def need_root() -> None:
    if os.geteuid():
        raise Skipped("needs root")


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
