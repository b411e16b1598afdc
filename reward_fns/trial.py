"""A trial of an own reward: a few calls in a process of its own, so that one that hangs or crashes takes nobody along.

`python -m reward_fns.trial RESULTS` reads a pickled `Request` from its standard input and writes one JSON a line: what it
loaded, then each call. The process starts in the current folder, from which VeRL's workers import, too.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from reward_fns.own import OwnReward, RewardError

LOAD_SECONDS, CALL_SECONDS = 60.0, 10.0  # the most time of loading the file, and of one call
ALL_CALLS_SECONDS = 20.0  # no call starts after that
MORE_CALLS_SECONDS = 1.0  # after the cases that have to be tried, no other starts after that
SLACK_SECONDS = 10.0  # for the process itself
# What libraries raise where a service is out of reach: classes, numbers of an OSError, and packages with errors of their own.
NETWORK_ERRORS = (ConnectionError, TimeoutError)
NETWORK_NUMBERS = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
NETWORK_PACKAGES = (
    "socket",
    "ssl",
    "urllib",
    "http",
    "httpx",
    "httpcore",
    "aiohttp",
    "requests",
    "urllib3",
    "openai",
    "anthropic",
    "grpc",
)


@dataclass(frozen=True)
class Case:
    """One answer to grade: a row's `source`, `gold` and `facts` (its extra_info), and the response. `is_gold` says whether the
    response gives the gold, which it cannot where the gold is tests, or null."""

    source: str
    response: str
    gold: Any
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_gold: bool = False


@dataclass(frozen=True)
class Request:
    """What a trial does: the first `needed` cases, and as many of the others as a second allows. `more` are arguments that VeRL
    adds by itself and that are not here; with them nothing is called."""

    reward: OwnReward
    cases: Sequence[Case]
    needed: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)
    call_seconds: float = CALL_SECONDS


@dataclass(frozen=True)
class Fault:
    """What went wrong, of which kind (those of RewardError, hangs or dies), and whether a service that is out of reach
    explains it. `kind_of_error` is the class of an exception. `call` is the number of the case; None while it is loaded."""

    kind: str
    what: str
    is_network: bool = False
    kind_of_error: str = ""
    call: int | None = None


@dataclass(frozen=True)
class Call:
    """One call that returned: the score, the keys of a dict, its seconds on the clock and of processor time, and what is odd.

    Odd are an `acc` that is not from 0 to 1, or is `no_number`, and the keys `without_mean`, whose values are neither numbers
    nor text.
    """

    call: int
    score: float
    keys: list[str]
    wall: float
    cpu: float
    acc: float | None = None
    no_number: str = ""
    without_mean: list[str] = field(default_factory=list)


@dataclass
class Trial:
    """What a trial showed. `awaited` says whether the function is `async def`; None where it was not loaded."""

    awaited: bool | None = None
    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def try_reward(request: Request) -> Trial:
    """Load and call the reward in a process of its own, which ends in a bounded time with all that it started."""
    with tempfile.TemporaryDirectory(prefix="posttrain-reward-") as place:
        results, printed = Path(place, "results.jsonl"), Path(place, "printed.txt")
        with printed.open("wb") as out:
            process = subprocess.Popen([sys.executable, "-m", "reward_fns.trial", str(results)], stdin=subprocess.PIPE,
                                       stdout=out, stderr=out, start_new_session=True)  # fmt: skip
            try:
                process.communicate(
                    pickle.dumps(request), LOAD_SECONDS + ALL_CALLS_SECONDS + request.call_seconds + SLACK_SECONDS
                )
            except subprocess.TimeoutExpired:
                pass
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return _read_trial(results, printed.read_text(errors="replace"), process.returncode, request)


def _read_trial(results: Path, printed: str, code: int, request: Request) -> Trial:
    """The lines of a process that has ended, and why it ended where it did not do so by itself."""
    trial = Trial()
    begun: int | None = None  # what the process was at when it ended
    for line in results.read_text().splitlines() if results.is_file() else ():
        said = json.loads(line)
        kind = said.pop("is")
        if kind == "loaded":
            trial.awaited = said["awaited"]
        elif kind == "begins":
            begun = said["call"]
        elif kind == "end":
            return trial
        else:
            trial.calls.append(Call(**said)) if kind == "call" else trial.faults.append(Fault(**said))
    doing = "a call" if begun is not None else "loading the file"
    if "Timeout (" in printed:
        seconds = LOAD_SECONDS if begun is None else request.call_seconds
        where = _describe_place(printed, request.reward)
        trial.faults.append(Fault("hangs", f"{doing} did not end within {seconds:g} s{where}", call=begun))
    else:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = (printed.strip().splitlines() or ["it printed nothing"])[-1][:200]
        trial.faults.append(Fault("dies", f"the process ended in {doing} with {how}: {last}", call=begun))
    return trial


def _describe_place(printed: str, reward: OwnReward) -> str:
    """Where a process stood when its time was over, e.g. ": it stands in score, line 12"; "" where that is not known."""
    frames = re.findall(r'File "(.+)", line (\d+) in (\S+)', printed.partition("Timeout (")[2])
    own = [(line, name) for file, line, name in frames if reward.file and file == str(reward.file)]
    return f": it stands in {own[0][1]}, line {own[0][0]}" if own else ""


def main() -> None:
    """The process of a trial. It never waits for what the reward started."""
    request: Request = pickle.load(sys.stdin.buffer)
    with open(sys.argv[1], "w", encoding="utf-8", buffering=1) as file:
        _work_through(request, file)
        _write_event(file, "end")
    os._exit(0)


def _work_through(request: Request, file: IO[str]) -> None:
    reward = request.reward
    faulthandler.dump_traceback_later(LOAD_SECONDS, exit=True, file=2)
    try:
        _write_event(file, "loaded", awaited=reward.is_awaited)
        reward.check_signature(request.more)
    except RewardError as error:
        _write_event(file, "fault", **asdict(_fault_of(error, None)))
        return
    until = time.monotonic() + ALL_CALLS_SECONDS
    for number, case in enumerate(() if request.more else request.cases):
        if number == request.needed:
            until = min(until, time.monotonic() + MORE_CALLS_SECONDS)
        if time.monotonic() > until:
            return
        _write_event(file, "begins", call=number)
        faulthandler.dump_traceback_later(request.call_seconds, exit=True, file=2)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            parts = reward.grade(case.source, case.response, case.gold, case.facts)
        except RewardError as error:
            _write_event(file, "fault", **asdict(_fault_of(error, number)))
            continue
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        numbers = {str(key): _as_number(value) for key, value in parts.items() if not isinstance(value, str | None)}
        odd = {
            "acc": numbers.get("acc"),
            "no_number": "" if "acc" not in parts or numbers.get("acc") is not None else repr(parts["acc"])[:40],
            "without_mean": sorted(key for key, value in numbers.items() if value is None and key != "acc"),
        }
        _write_event(file, "call", call=number, score=parts["score"], keys=sorted(map(str, parts)), **seconds, **odd)


def _as_number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _fault_of(error: RewardError, call: int | None) -> Fault:
    kind = type(error.causes[0]).__name__ if error.causes else ""
    return Fault(error.fault, str(error), any(map(is_of_network, error.causes)), kind, call)


def is_of_network(error: BaseException) -> bool:
    """Whether an exception says that something cannot be reached."""
    is_unreachable = isinstance(error, OSError) and error.errno in NETWORK_NUMBERS
    return (
        isinstance(error, NETWORK_ERRORS) or is_unreachable or type(error).__module__.split(".")[0] in NETWORK_PACKAGES
    )


def _write_event(file: IO[str], event: str, /, **facts: Any) -> None:
    file.write(json.dumps({"is": event, **facts}) + "\n")


if __name__ == "__main__":
    main()
