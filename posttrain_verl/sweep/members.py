"""Runs the members of a sweep, so many at a time; one that fails does not end the others."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path

from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED, RUNNING, RunFolder
from posttrain_verl.sweep.record import Member, Record

STATES = {0: DONE, 130: INTERRUPTED}


class Members:
    """The processes of a sweep."""

    def __init__(self, record: Record, report: Callable[[str], None]):
        self._record, self._report = record, report
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._taken: dict[tuple[str, ...], Member] = {}
        self._interrupted = False

    def run(self, batch: list[list[str]], at_once: int) -> list[Member]:
        """Run a member for each list of words, at most `at_once` at a time, and return them.

        What is done is not repeated, nor are words that a search proposes a second time. Ctrl-C is passed to each
        member once, and raised when all have ended.
        """
        new = [words for words in dict.fromkeys(map(tuple, batch)) if words not in self._taken]
        self._taken |= {words: self._record.member(list(words)) for words in new}
        self._record.save()
        members = [self._taken[words] for words in new]
        with ThreadPoolExecutor(at_once) as pool:
            ended = [pool.submit(self._one, member, at_once > 1) for member in members if not self._is_done(member)]
            self._wait(ended)
        if self._interrupted:
            raise KeyboardInterrupt
        return [self._taken[tuple(words)] for words in batch]

    def _is_done(self, member: Member) -> bool:
        if member.state == DONE:
            self._report(f"member {member.number} is done already: {self._named(member)}")
        return member.state == DONE

    def _wait(self, ended: list[Future[None]]) -> None:
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

    def _one(self, member: Member, aside: bool) -> None:
        """Run one member to its end. With others beside it, what it prints goes to a file."""
        if self._interrupted:
            return
        self._report(f"member {member.number}: {self._named(member)}")
        member.state, started = RUNNING, time.time()
        self._record.save()
        with ExitStack() as stack:
            output = stack.enter_context(self._output(member).open("ab")) if aside else None
            process = subprocess.Popen(self._command(member), stdout=output, stderr=output, start_new_session=True)
            self._processes[member.number] = process
            code = process.wait()
        member.code = code if code >= 0 else 128 - code  # as a shell says it of a signal
        member.seconds = time.time() - started
        member.state, member.why = _came_of(member)
        self._record.save()
        self._report(f"member {member.number} {member.state} after {member.seconds:.0f} s {member.why}".rstrip())

    def _command(self, member: Member) -> list[str]:
        if member.goes_on:  # from its newest whole checkpoint
            return [sys.executable, "-m", self._record.verb, f"run={member.folder}"]
        own = f"posttrain.run_id={self._record.run_id(member)}"
        return [sys.executable, "-m", self._record.verb, *member.overrides, own, *self._record.flags]

    def _output(self, member: Member) -> Path:
        return self._record.folder / f"member-{member.number}.txt"

    def _named(self, member: Member) -> str:
        return " ".join(self._record.swept(member) or member.overrides)


def _came_of(member: Member) -> tuple[str, str]:
    """The state and reason that the member's run folder gives, or those of its exit code where it left none."""
    folder = RunFolder(Path(member.folder))
    if folder.status.exists() and member.code != 2:
        status = folder.read_status()
        if status.state != RUNNING:
            return status.state, status.why
    return STATES.get(member.code or 0, FAILED), "" if not member.code else f"exit code {member.code}"
