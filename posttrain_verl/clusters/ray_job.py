"""A job of a Ray cluster, seen through the HTTP address of its dashboard: its state, its log and its files.

Ray is imported when the first job is asked for: the process that launches stays light until then.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import shlex
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from posttrain_verl.clusters import LOST_SECONDS
from posttrain_verl.preflight import services
from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED, RUNNING, RunFolder
from posttrain_verl.run.output import first_error_of
from posttrain_verl.terminal.problem import InputError, Problem, is_problem_title

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

Answer = TypeVar("Answer")
PROBE_SECONDS = 5.0
POLL_SECONDS = 1.0
CLOCKS_SECONDS = 60.0  # by which the clocks of two machines may differ
_WRONG_PYTHON = re.compile(
    r"python\S*: (?:command )?not found|No module named '?(?:posttrain_verl|verl|omegaconf|hydra)\b"
)
STATES = {"PENDING": RUNNING, "RUNNING": RUNNING, "SUCCEEDED": DONE, "FAILED": FAILED, "STOPPED": INTERRUPTED}


def connect_head(address: str) -> JobSubmissionClient:
    """A client of the head whose dashboard is at `address`, e.g. http://10.0.0.1:8265.

    Raises:
        InputError: it does not answer within PROBE_SECONDS, is not Ray, or refuses our token.
    """
    probe_dashboard(address)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise _unreachable_head(address, "the head refuses the token of this shell", services.MAKE_TOKEN) from None
    except (RuntimeError, ConnectionError) as error:
        raise _unreachable_head(address, str(error).splitlines()[0]) from None


def probe_dashboard(address: str) -> None:
    """Ask for the version once, with a time limit, which Ray's own client does not have."""
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise _unreachable_head(address, "that is not http://HOST:PORT")
    if missing := services.missing_token(url.hostname):
        raise InputError(f"the Ray cluster at {address} cannot be used", missing)
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=PROBE_SECONDS) as answer:
            json.load(answer)["ray_version"]
    except urllib.error.HTTPError as error:  # it answers; Ray's client sends the token later
        if error.code not in (401, 403):
            raise _unreachable_head(address, f"it answers {error.code}, so it is not a Ray dashboard") from None
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise _unreachable_head(address, f"no answer within {PROBE_SECONDS:g} s ({reason})") from None
    except (ValueError, KeyError, TypeError):
        raise _unreachable_head(address, "what answers is not a Ray dashboard") from None


def _unreachable_head(address: str, what: str, remedy: str = "") -> InputError:
    remedy = remedy or ("is the head up, with its dashboard? ray start --head --dashboard-host=...; from outside its network:\n"
                        "ssh -N -L 8265:127.0.0.1:8265 HEAD, and address=http://127.0.0.1:8265")  # fmt: skip
    return InputError(f"the Ray cluster at {address} cannot be used", [Problem(f"{address}: {what}", remedy)])


class RayJob:
    """One job. `id` is Ray's submission id, and `folder` is the run folder on the cluster."""

    def __init__(self, address: str, id: str, folder: str):
        self.address, self.id, self.folder = address, id, folder

    @cached_property
    def client(self) -> JobSubmissionClient:
        return connect_head(self.address)

    def state(self) -> str:
        """The state of the job as that of a run; failed if the cluster does not know the job."""
        status = self._ask_head(lambda client: client.get_job_status(self.id))
        return STATES[str(status.value)] if status else FAILED

    def exit_code(self) -> int | None:
        """The exit code of the launch on the cluster; None while it runs, or if it never started."""
        info = self._ask_head(lambda client: client.get_job_info(self.id))
        return info.driver_exit_code if info else None

    def end(self) -> float | None:
        """When the job ended, in seconds since the epoch by the clock of the head; None where the head does not say."""
        info = self._ask_head(lambda client: client.get_job_info(self.id))
        return info.end_time / 1000 if info and info.end_time else None

    def waits_for(self) -> str:
        """What Ray says of a job that has not started; empty once its launch runs."""
        info = self._ask_head(lambda client: client.get_job_info(self.id))
        return (info.message or "").strip() or "it has not started" if info and info.status == "PENDING" else ""

    def failure(self) -> str:
        """Why the launch on the cluster failed: the problem that it named, else the first error of its log, else Ray's word."""
        lines = [line for line in self.logs().splitlines() if line.strip()]
        refused = [number for number, line in enumerate(lines) if is_problem_title(line)]
        if refused:
            return " ".join(line.strip() for line in lines[refused[-1] : refused[-1] + 2])
        said = first_error_of(lines) or (lines[-1].strip() if lines else "")
        if _WRONG_PYTHON.search(said):
            said += (
                "; the Python there lacks it: name the one with the packages, posttrain.cluster.python=/PATH/TO/python"
            )
        return f"{said} ({self.message()})" if said else self.message()

    def visible_folder(self, since: float) -> RunFolder | None:
        """The folder of the run on the cluster; None where this machine does not see it, or no run trains there.

        `since` is when the job was submitted. A run that started long before is another, or another attempt.
        """
        there = RunFolder(Path(self.folder).expanduser())
        status = there.read_status() if there.status.exists() else None
        is_it = status is not None and status.state == RUNNING and status.started > since - CLOCKS_SECONDS
        return there if is_it else None

    def message(self) -> str:
        """What Ray says of the job, in one line."""
        info = self._ask_head(lambda client: client.get_job_info(self.id))
        if info is None:
            return f"the cluster at {self.address} does not know job {self.id}: it was restarted since"
        first = ((info.message or "").strip().splitlines() or [""])[0]
        return first.partition(", last available logs")[0]

    def logs(self) -> str:
        """All that the launch on the cluster has printed; nothing if the cluster does not know the job."""
        return self._ask_head(lambda client: client.get_job_logs(self.id)) or ""

    def _ask_head(self, question: Callable[[JobSubmissionClient], Answer]) -> Answer | None:
        """What the head answers; None if it does not know the job, as after a restart of the cluster."""
        client = self.client
        try:
            return question(client)
        except RuntimeError as error:
            if f"Job {self.id} does not exist" not in str(error):
                raise
            return None

    def stop(self, seconds: float = 90.0) -> str:
        """End the run there as Ctrl-C would, wait for it up to `seconds`, and return its state."""
        if self.state() == RUNNING:
            self.client.stop_job(self.id)
        return self.wait(seconds)

    def wait(self, seconds: float) -> str:
        """The state once the job has ended, or after `seconds`."""
        until = time.monotonic() + seconds
        while (state := self.state()) == RUNNING and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return state

    def follow(self) -> Iterator[str]:
        """The lines of its log from the first one until the job has ended. A connection that broke is made again.

        Raises:
            ConnectionError: the head has been silent for LOST_SECONDS.
        """
        seen, rest = 0, ""
        while True:
            read = 0
            for chunk in self._tail():
                read += len(chunk)
                fresh, seen = chunk[max(0, len(chunk) - max(0, read - seen)) :], max(seen, read)
                *lines, rest = (rest + fresh).split("\n")
                yield from lines
            if self._state_when_back() != RUNNING:
                yield from [rest] if rest else []
                return

    def _tail(self) -> Iterator[str]:
        """Chunks of the log from its start, until Ray closes the stream or the head is gone."""
        import aiohttp

        async def next_chunk(stream: Any) -> str:
            return await asyncio.wait_for(anext(stream), LOST_SECONDS)

        with asyncio.Runner() as runner:
            stream = self.client.tail_job_logs(self.id).__aiter__()
            while True:
                try:
                    chunk = runner.run(next_chunk(stream))
                except (StopAsyncIteration, TimeoutError, RuntimeError, OSError, aiohttp.ClientError):
                    return
                yield chunk

    def _state_when_back(self) -> str:
        until = time.monotonic() + LOST_SECONDS
        while True:
            try:
                probe_dashboard(self.address)
                return self.state()
            except (InputError, OSError, RuntimeError):
                if time.monotonic() > until:
                    raise ConnectionError(f"{self.address} has been silent for {LOST_SECONDS:g} s") from None
            time.sleep(POLL_SECONDS)

    def fetch(self, target: Path) -> bool:
        """Copy the small files of the run folder (config, plan, status, metrics, log, validation) to `target`.

        They travel in the log of a second, short job, so that no storage has to be shared. Returns False if the run has no
        folder there.
        """
        inside = ("find . -maxdepth 2 -type f -size -50M -not -name '.*' -not -path './checkpoints/*' -not -path './rollouts/*' "
                  "-not -path './ray_logs/*' -print0 | tar -cz --null -T - | base64 -w 0")  # fmt: skip
        # Ray writes a line of its own, the script, at about the time the job starts. It must not fall into the packed one.
        script = f'cd {shell_quoted(self.folder)} && sleep 1 && echo "packed:$({inside})"'
        copy = RayJob(self.address, self.client.submit_job(entrypoint=script), self.folder)
        ended = copy.wait(LOST_SECONDS) == DONE
        packed = re.search(r"^packed:([A-Za-z0-9+/=]+)$", copy.logs(), re.MULTILINE) if ended else None
        if packed is None:
            return False
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed[1]))) as archive:
            archive.extractall(target, filter="data")
        return True


def shell_quoted(path: str) -> str:
    """The path quoted for a shell, except for a leading tilde."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)
