"""Run the members of a sweep. One that fails does not end the others.

One runs at a time, and on a cluster that counts its devices as many as fit there.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep

from posttrain_verl import clusters, compose
from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED, RUNNING, RunFolder
from posttrain_verl.sweep.members import Member, Record, override_value
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem


class MemberRunner:
    """The processes of a sweep."""

    def __init__(self, record: Record):
        self._record = record
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._taken: dict[tuple[str, ...], Member] = {}
        self._interrupted = False

    def run(self, batch: list[list[str]], at_once: int) -> list[Member]:
        """Run a member for each list of overrides, at most `at_once` at a time, and return them.

        What is done is not repeated, nor are overrides that a search proposes a second time. Ctrl-C is passed to each
        member once, and raised when all have ended.
        """
        new = [overrides for overrides in dict.fromkeys(map(tuple, batch)) if overrides not in self._taken]
        self._taken |= {overrides: self._record.member(list(overrides)) for overrides in new}
        self._record.save()
        with ThreadPoolExecutor(at_once) as pool:
            ended = []
            for member in (self._taken[overrides] for overrides in new):
                if member.state == DONE:
                    log.info(f"member {member.number} is done already: {self._member_name(member)}")
                else:
                    ended.append(pool.submit(self._run_member, member, at_once > 1))
            self._wait_for_all(ended)
        if self._interrupted:
            raise KeyboardInterrupt
        return [self._taken[tuple(overrides)] for overrides in batch]

    def _wait_for_all(self, ended: list[Future[None]]) -> None:
        while True:
            try:
                wait(ended)
                break
            except KeyboardInterrupt:
                self._interrupted = True
                for process in list(self._processes.values()):
                    with suppress(ProcessLookupError):
                        process.send_signal(signal.SIGINT)
        for future in ended:
            future.result()

    def _run_member(self, member: Member, to_file: bool) -> None:
        """Run one member to its end. With `to_file`, what it prints goes to a file, because others run beside it."""
        if self._interrupted:
            return
        log.info(f"member {member.number}: {self._member_name(member)}")
        earlier = member.seconds if member.goes_on else 0.0
        member.state, started = RUNNING, time.monotonic()
        self._record.save()
        arguments = [*member.overrides, f"posttrain.run_id={self._record.run_id(member)}", *self._record.flags]
        if member.goes_on:  # from its newest whole checkpoint
            arguments = [f"run={member.folder}"]
        with ExitStack() as stack:
            file = self._record.folder / f"member-{member.number}.txt"
            output = stack.enter_context(file.open("ab")) if to_file else None
            command = [sys.executable, "-m", self._record.verb, *arguments]
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
            self._processes[member.number] = process
            code = process.wait()
        member.code = code if code >= 0 else 128 - code  # as a shell reports a signal
        member.seconds = earlier + time.monotonic() - started
        member.state, member.why = _final_state(member)
        self._record.save()
        log.info(f"member {member.number} {member.state} after {member.seconds:.0f} s {member.why}".rstrip())

    def _member_name(self, member: Member) -> str:
        return " ".join(self._record.swept(member) or member.overrides)


def _final_state(member: Member) -> tuple[str, str]:
    """The state and reason that the member's run folder gives, or those of its exit code where it left none."""
    folder = RunFolder(Path(member.folder))
    if folder.status.exists() and member.code != 2:
        status = folder.read_status()
        if status.state != RUNNING:
            return status.state, status.why
    code = member.code or 0
    return {0: DONE, 130: INTERRUPTED}.get(code, FAILED), f"exit code {code}" if code else ""


def count_at_once(overrides: list[str]) -> int:
    """How many members of a sweep run at a time: `posttrain.at_once` if it is given, else as many as fit.

    Raises InputError where the number is wrong, or the cluster does not answer.
    """
    if given := override_value(overrides, "posttrain.at_once"):
        if not given.isdecimal() or int(given) < 1:
            problem = Problem(
                f"posttrain.at_once={given} is not a number of members", "give 1 or more, or leave it out"
            )
            raise InputError("nothing to sweep", [problem])
        return int(given)
    if override_value(overrides, "cluster") is None:  # this machine
        return 1
    member = compose.compose([_first_value(each) for each in overrides if not each.startswith("hydra")])
    cluster = clusters.cluster_named(str(member.posttrain.cluster.get("name")))
    count = cluster.count_at_once if cluster else None  # the launch of each member says that there is no such kind
    return count(member) if count else 1


def _first_value(override: str) -> str:
    """The override with the first of the values that it names."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return override
    value = parsed.value()
    first = value.start if isinstance(value, IntervalSweep) else next(parsed.sweep_string_iterator())
    return f"{parsed.get_key_element()}={first}"
