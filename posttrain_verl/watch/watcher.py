"""The watch over one run: it asks every rule, writes events.jsonl, and decides when to stop.

An alarm about the machine comes with the Python stacks of the processes, from py-spy where it is installed (Ray brings it).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.verl.stage import Settings
from posttrain_verl.watch import machine_rules, metric_rules
from posttrain_verl.watch.machine_rules import Alarm, Situation

STACK_SECONDS = 10.0  # for all stacks together: a stop must not wait for them
SHOWN_FRAMES = 3


def dump_stacks(pids: Iterable[int]) -> dict[int, str]:
    """The stacks of all threads by process, in this order, as many as fit into STACK_SECONDS.

    A process is left out without py-spy, without the right to inspect it, or where it is not a Python.
    """
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.is_file() else shutil.which("py-spy")
    until, found = time.monotonic() + STACK_SECONDS, {}
    for pid in dict.fromkeys(pids) if program else ():
        if (left := until - time.monotonic()) <= 0:
            break
        command = [str(program), "dump", "--nonblocking", "--pid", str(pid)]
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=left, check=False)
            if done.returncode == 0 and done.stdout:
                found[pid] = done.stdout
    return found


def parse_threads(stack: str) -> list[list[str]]:
    """The threads of a dump, main thread first, each as its frames (`function (file:line)`) from the innermost one."""
    found: list[tuple[bool, list[str]]] = []
    for line in stack.splitlines():
        if line.startswith("Thread "):
            found.append(('"MainThread"' in line, []))
        elif line.startswith("    ") and found:
            found[-1][1].append(line.strip())
    return [frames for _, frames in sorted(found, key=lambda one: not one[0])]


def innermost_frames(stack: str, function: str = "") -> str:
    """The innermost frames of the thread inside `function`, or of the main one: `callee (file:line) < caller (file:line) ...`."""
    running = parse_threads(stack)
    inside = [frames for frames in running if any(frame.startswith(f"{function} (") for frame in frames)]
    return " < ".join((inside or running or [[]])[0][:SHOWN_FRAMES])


def calls_function(stack: str, function: str) -> bool:
    """Whether a thread of the process is inside a function of this name."""
    return any(frame.startswith(f"{function} (") for frames in parse_threads(stack) for frame in frames)


# The rules whose faults a restart heals. A run with wrong numbers or a wrong config would only fail again.
RAY_START = (
    "ray_start"  # not a rule of the watch: Ray's C++ core ended the driver, while it started Ray, with no exception
)
HEALED_BY_RESTART = frozenset({"dead", "stopped", "silence", RAY_START})
UNATTENDED_RETRIES = 1  # of an unattended run, where `retries` is null


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl. `time` is in seconds since the epoch, `level` one of info, warn, stop.

    `stage` is what the trainer did, an activity of `verl.progress`.
    """

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

    `settings` is `posttrain.watch`, and `trained` are the settings of the run; without them nothing is watched. A process that
    is inside the run's reward function at an alarm during generation means that the run waits for rewards.
    """

    def __init__(self, events: Path, settings: Mapping[str, Any] | None = None, trained: Settings | None = None):
        self._events = events
        self._settings = settings or {}
        self._grader = trained.grader if trained else ""
        self._metrics = metric_rules.make_metric_rules(settings, trained) if settings and trained else {}
        self._machine = machine_rules.make_machine_rules(settings) if settings else {}
        self._blind: set[str] = set()  # machine rules that could not look
        self._quiet: set[str] = set()  # machine rules that warned and whose reason has not passed

    def step(self, step: int, data: Mapping[str, Any], find_failure: Callable[[], str] = lambda: "") -> list[Event]:
        """What the rules on metrics find in the metrics of a step. `find_failure` finds why an answer failed, in the log."""
        events = []
        for name, rule in self._metrics.items():
            if saw := rule.find_fault(data):
                failure = find_failure() if name in metric_rules.EXPLAINED_BY_LOG else ""
                why = f"{failure}: {rule.why}" if failure else rule.why
                events.append(self._record(self._settings[name]["do"], name, step, rule.activity, saw, why))
        return events

    def look(self, situation: Situation) -> list[Event]:
        """What the rules on the machine find. A rule that warned warns again only after its reason has passed.

        A rule that fails, e.g. while a file system is gone, finds nothing, and notes that once.
        """
        events = []
        for name, rule in self._machine.items():
            seen = None
            try:
                seen = rule.find_fault(situation)
            except Exception as error:
                if name not in self._blind:
                    self._blind.add(name)
                    saw = f"{type(error).__name__}: {error}"
                    self.note(name, situation.step, situation.activity, saw, "the rule cannot look")
            if seen is None:
                self._quiet.discard(name)
            elif name not in self._quiet:
                self._quiet.add(name)
                noticed = time.time()  # taking the stacks takes a while
                activity, why = self._locate_fault(seen, situation)
                level = self._settings[name]["do"]
                events.append(self._record(level, name, situation.step, activity, seen.saw, why, noticed))
        return events

    def ended(self, step: int | None, activity: str, error: str, dead: str) -> Event:
        """Record that VeRL ended with an error; `dead` says what died, where that is why."""
        why = error if dead not in ("", error) else "VeRL ended by itself"
        return self._record("stop", "dead" if dead else "exit", step, activity, dead or error, why)

    def note(self, rule: str, step: int | None, activity: str, saw: str, why: str) -> Event:
        """Record something that is not an alarm."""
        return self._record("info", rule, step, activity, saw, why)

    def _record(
        self, level: str, rule: str, step: int | None, activity: str, saw: str, why: str, noticed: float | None = None
    ) -> Event:
        event = Event(noticed or time.time(), rule, level, step, activity, saw, why)
        with self._events.open("a") as file:
            file.write(json.dumps(asdict(event)) + "\n")
        return event

    def _locate_fault(self, seen: Alarm, situation: Situation) -> tuple[str, str]:
        """The activity that is stuck, and `why` with the innermost frames of the stuck process. All stacks go to stacks.txt."""
        if seen.pid is None:
            return situation.activity, seen.why
        names = {pid: situation.names.get(pid, "process") for pid in [seen.pid, *situation.members]}
        workers = [pid for pid in situation.members
                   if names[pid].startswith(("ray::", "VLLM::")) and names[pid] != "ray::IDLE"]  # fmt: skip
        found = dump_stacks([seen.pid, *workers])
        text = "".join(f"== {names[pid]} (pid {pid}), {time.ctime()}\n{stack}\n" for pid, stack in found.items())
        with self._events.with_name("stacks.txt").open("a") as file:
            file.write(text)
        grading = [pid for pid, stack in found.items() if self._grader and calls_function(stack, self._grader)]
        activity = "reward" if grading and situation.activity in ("", "generation") else situation.activity
        pid = grading[0] if grading and activity == "reward" else seen.pid
        frames = innermost_frames(found[pid], self._grader if pid in grading else "") if pid in found else ""
        return activity, f"{seen.why}; {names[pid]} (pid {pid}) is in {frames}" if frames else seen.why


def watch_settings(plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """`posttrain.watch` of a plan.json, with defaults for keys that an older one lacks; None where it has none."""
    if plan.get("watch") is None:
        return None
    shipped = OmegaConf.load(paths.conf_dir() / "watch" / "default.yaml")
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.merge(shipped, plan["watch"])))


def unattended_overrides(settings: Mapping[str, Any]) -> list[str]:
    """The overrides for an unattended launch: a pipeline's or a cluster's. `settings` is `posttrain.watch`."""
    return [f"posttrain.watch.retries={UNATTENDED_RETRIES}"] if settings["retries"] is None else []


def stopping_event(events: list[Event]) -> Event | None:
    """The first event that ends the run."""
    return next((event for event in events if event.level == "stop"), None)
