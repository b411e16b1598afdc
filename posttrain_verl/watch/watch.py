"""The watch over one run: asks every rule, writes what they saw to events.jsonl, and says when to stop."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.watch import machine, metrics, stacks
from posttrain_verl.watch.machine import Seen, Situation

# What a restart heals. A run whose numbers or whose config are wrong would only go wrong again.
HEALED_BY_RESTART = frozenset({"dead", "stopped", "silence"})
UNATTENDED_RETRIES = 1  # of a run that nobody looks on, where `retries` is null


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl. `time` is in seconds since the epoch, `level` one of info, warn, stop."""

    time: float
    rule: str
    level: str
    step: int | None
    stage: str
    saw: str
    why: str

    @property
    def line(self) -> str:
        where = f" at step {self.step}" if self.step is not None else ""
        stage = f" ({self.stage})" if self.stage else ""
        return f"{self.rule}{where}{stage}: {self.saw}; {self.why}"


class Watch:
    """The rules of one run with their thresholds.

    `settings` is `posttrain.watch`; without it nothing is watched. `grader` is the name of the reward function: a process
    inside it at an alarm during generation means that the rewards are what is waited for.
    """

    def __init__(self, events: Path, settings: Mapping[str, Any] | None = None, grader: str = ""):
        self._events = events
        self._settings = settings or {}
        self._grader = grader
        self._metrics = metrics.rules(settings) if settings else {}
        self._machine = machine.rules(settings) if settings else {}
        self._blind: set[str] = set()  # machine rules that could not look
        self._quiet: set[str] = set()  # machine rules that warned and whose reason has not passed

    def step(self, step: int, data: Mapping[str, Any]) -> list[Event]:
        """What the rules on metrics say to the metrics of a step."""
        seen = [(name, rule, rule.see(data)) for name, rule in self._metrics.items()]
        return [self._write(name, step, rule.stage, Seen(saw, rule.why)) for name, rule, saw in seen if saw]

    def look(self, situation: Situation) -> list[Event]:
        """What the rules on the machine say; one that warned speaks again after its reason has passed."""
        events = []
        for name, rule in self._machine.items():
            seen = self._ask(name, rule, situation)
            if seen is None:
                self._quiet.discard(name)
            elif name not in self._quiet:
                self._quiet.add(name)
                noticed = time.time()  # taking the stacks takes a while
                stage, why = self._located(seen, situation)
                events.append(self._write(name, situation.step, stage, Seen(seen.saw, why), noticed))
        return events

    def _ask(self, name: str, rule: machine.MachineRule, situation: Situation) -> Seen | None:
        """What a rule sees; one that cannot look (a file system that is gone for a moment) sees nothing, and says so once."""
        try:
            return rule.see(situation)
        except Exception as error:
            if name not in self._blind:
                self._blind.add(name)
                self.note(
                    name, situation.step, situation.stage, f"{type(error).__name__}: {error}", "the rule cannot look"
                )
            return None

    def ended(self, step: int | None, stage: str, error: str, dead: str) -> Event:
        """Record that VeRL ended with an error; `dead` says what died, where that is why."""
        why = error if dead not in ("", error) else "VeRL ended by itself"
        return self._append(Event(time.time(), "dead" if dead else "exit", "stop", step, stage, dead or error, why))

    def note(self, rule: str, step: int | None, stage: str, saw: str, why: str) -> Event:
        """Record something that is no alarm."""
        return self._append(Event(time.time(), rule, "info", step, stage, saw, why))

    def _write(self, rule: str, step: int | None, stage: str, seen: Seen, noticed: float | None = None) -> Event:
        level = self._settings[rule]["do"]
        return self._append(Event(noticed or time.time(), rule, level, step, stage, seen.saw, seen.why))

    def _append(self, event: Event) -> Event:
        with self._events.open("a") as file:
            file.write(json.dumps(asdict(event)) + "\n")
        return event

    def _located(self, seen: Seen, situation: Situation) -> tuple[str, str]:
        """The stage that is stuck, and `why` with the innermost frames of the stuck process; all stacks go to stacks.txt."""
        if seen.pid is None:
            return situation.stage, seen.why
        pids = [seen.pid, *(pid for pid in situation.members if _is_worker(situation.names.get(pid, "")))]
        found = stacks.dump_all(pids)
        names = {pid: situation.names.get(pid, "process") for pid in found}
        text = "".join(f"== {names[pid]} (pid {pid}), {time.ctime()}\n{stack}\n" for pid, stack in found.items())
        with self._events.with_name("stacks.txt").open("a") as file:
            file.write(text)
        grading = [pid for pid, stack in found.items() if self._grader and stacks.calls(stack, self._grader)]
        stage = "reward" if grading and situation.stage in ("", "generation") else situation.stage
        pid = grading[0] if grading and stage == "reward" else seen.pid
        frames = stacks.innermost(found[pid], self._grader if pid in grading else "") if pid in found else ""
        return stage, f"{seen.why}; {names[pid]} (pid {pid}) is in {frames}" if frames else seen.why


def _is_worker(name: str) -> bool:
    return name.startswith(("ray::", "VLLM::")) and name != "ray::IDLE"


def settings_of(plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """`posttrain.watch` of a plan.json, with defaults for what it lacks where it is older; None where it has none."""
    if plan.get("watch") is None:
        return None
    shipped = OmegaConf.load(paths.conf_dir() / "watch" / "default.yaml")
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.merge(shipped, plan["watch"])))


def words_unattended(settings: Mapping[str, Any]) -> list[str]:
    """The words that a launch gets which nobody looks on: a pipeline's, or a cluster's; `settings` is `posttrain.watch`."""
    return [f"posttrain.watch.retries={UNATTENDED_RETRIES}"] if settings["retries"] is None else []


def stopping(events: list[Event]) -> Event | None:
    """The first event that ends the run."""
    return next((event for event in events if event.level == "stop"), None)
