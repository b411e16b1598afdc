"""Real VeRL runs, started as a user starts them. One cache, one data folder and one warm Python serve all of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from posttrain_verl.cpu import warm
from posttrain_verl.run import environment
from posttrain_verl.run.folder import RunFolder, Status

SECONDS = 800  # a run takes about 30 on two idle cores
TINY = {
    "rl": [
        "data.train_batch_size=4",
        "data.max_prompt_length=48",
        "data.max_response_length=16",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.actor.optim.lr=1e-2",  # weights must move far enough for a missed update to show
        f"reward.custom_reward_function.path={Path(__file__).with_name('uneven_reward.py')}",
    ],
    "sft": ["data.train_batch_size=8", "data.max_length=96"],
    "dpo": ["data.train_batch_size=8", "data.micro_batch_size_per_gpu=8", "data.max_length=96"],
}


@dataclass
class Run:
    """A launch that ended: its exit code, what it printed, and its folder."""

    code: int
    lines: list[str]
    folder: RunFolder
    segments: set[str] = field(default_factory=set)

    @property
    def metrics(self) -> dict[int, dict[str, Any]]:
        """What was measured in each step; a validation is a line of its own."""
        found: dict[int, dict[str, Any]] = {}
        for record in map(json.loads, self.folder.metrics.read_text().splitlines()):
            found.setdefault(record["step"], {}).update(record["data"])
        return found

    @property
    def status(self) -> Status:
        return self.folder.read_status()

    def assert_done(self, steps: list[int]) -> None:
        """It ended well, and each of the steps is in metrics.jsonl."""
        assert self.code == 0, self.explained()
        assert self.status.state == "done"
        assert sorted(self.metrics) == steps

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the watch saw and did."""
        file = self.folder.events
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def logged_steps(self) -> list[int]:
        """The step of each line of metrics.jsonl, validations left out."""
        records = map(json.loads, self.folder.metrics.read_text().splitlines())
        return [record["step"] for record in records if not any(key.startswith("val") for key in record["data"])]

    def assert_rollouts_follow(self) -> None:
        """The policy changed in every step, and vLLM sampled from the changed weights."""
        for step, metrics in self.metrics.items():
            assert metrics["actor/grad_norm"] > 1e-3, f"step {step} trained nothing"
            assert metrics["training/rollout_actor_probs_pearson_corr"] > 0.99, f"step {step}"

    def assert_nothing_runs(self) -> None:
        until = time.monotonic() + 30  # a driver whose supervisor was killed takes 10 to end itself, and Ray follows it
        while (found := _processes_of(self.folder)) and time.monotonic() < until:
            time.sleep(0.2)
        assert not found, "processes of the run are left"

    def explained(self) -> str:
        log = self.folder.log.read_text(errors="replace").splitlines() if self.folder.log.exists() else []
        return "\n".join(self.lines[-5:] + log[-40:])


Launch = Callable[..., Run]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of every run: the cache, and the warm Python, where POSTTRAIN_WARM_PYTHON=0 does not turn it off."""
    folder = tmp_path_factory.mktemp("shared")
    given = {"POSTTRAIN_CACHE": str(folder / "cache"), "POSTTRAIN_TEST_DATA": str(folder / "data")}
    with warm.started(environment.process_variables("cpu", local_model=True) | given, folder / "zygote.txt", given):
        yield given


@pytest.fixture(scope="session")
def launch(shared: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """`launch(recipe, *words)` runs it to its end; `at` gets the run's folder until it says that now is the time to
    `strike`, which gets the supervisor and the folder, and is Ctrl-C if it is not given."""

    def run(recipe: str, *words: str, variables: dict[str, str | None] | None = None, at: Any = None,
            strike: Any = interrupt) -> Run:  # fmt: skip
        runs = tmp_path_factory.mktemp("runs")
        given = {**os.environ, **shared, **(variables or {})}
        environ = {name: value for name, value in given.items() if value is not None}
        defaults = [
            "base_model=tiny", "mix=embedded", f"posttrain.runs_dir={runs}", "posttrain.run_id=it",
            f"posttrain.data_dir={shared['POSTTRAIN_TEST_DATA']}", "trainer.total_training_steps=2",
            "trainer.save_freq=2", "trainer.test_freq=-1", *TINY[next((name for name in TINY if name in recipe), "rl")],
        ]  # fmt: skip
        named = {word.split("=")[0] for word in words}
        command = [f"recipe={recipe}", *(word for word in defaults if word.split("=")[0] not in named), *words]
        folder = RunFolder(runs / recipe / "it")
        ended = _launch(command, environ, folder, at, strike)
        if "RAY_ADDRESS" not in environ:  # a cluster of the user's own keeps idle workers for a while
            ended.assert_nothing_runs()
        return ended

    return run


@pytest.fixture(scope="session")
def go_on(shared: dict[str, str]) -> Callable[..., Run]:
    """`go_on(run, *words)` resumes a run and follows it to its end."""

    def resume(run: Run, *words: str) -> Run:
        ended = _launch([f"run={run.folder.path}", *words], {**os.environ, **shared}, run.folder, None, interrupt)
        ended.assert_nothing_runs()
        return ended

    return resume


@pytest.fixture(scope="session")
def bound() -> Callable[[float], float]:
    """`bound(seconds)` is how long something may take now: the seconds, and longer where the machine has more to do than
    this run, whose own processes keep the load below two a core."""
    return lambda seconds: seconds * max(1.0, os.getloadavg()[0] / (2 * (os.cpu_count() or 1)))


def interrupt(supervisor: subprocess.Popen[str], folder: RunFolder) -> None:
    supervisor.send_signal(signal.SIGINT)


def _launch(words: list[str], environ: dict[str, str], folder: RunFolder, at: Any, strike: Any) -> Run:
    before = set(os.listdir("/dev/shm"))
    code, lines = _run([sys.executable, "-m", "posttrain_verl.launch", *words], environ, folder, at, strike)
    return Run(code, lines, folder, left_since(before))


def left_since(before: set[str], seconds: float = 10) -> set[str]:
    """The segments that came since and that no process maps. What lives for a moment between two programs is waited for."""
    left, until = set(os.listdir("/dev/shm")) - before, time.monotonic() + seconds
    while (left := _unmapped(left)) and time.monotonic() < until:
        time.sleep(0.5)
    return left


def _unmapped(names: set[str]) -> set[str]:
    """Those of the segments that no process maps: what others use is nothing that the run left.

    By inode, because a semaphore is mapped under the name that it had while it was made.
    """
    mapped = set()
    for file in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            mapped |= {line.split(maxsplit=5)[4] for line in file.read_text().splitlines() if " /dev/shm/" in line}
    return {entry.name for entry in os.scandir("/dev/shm") if entry.name in names and str(entry.inode()) not in mapped}


def _run(command: list[str], environ: dict[str, str], folder: RunFolder, at: Any, strike: Any) -> tuple[int, list[str]]:
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            while at is not None and process.poll() is None and not at(folder):
                time.sleep(0.1)
            if at is not None and process.poll() is None:
                strike(process, folder)
            output, _ = process.communicate(timeout=SECONDS)
        except BaseException:
            process.terminate()
            process.wait(timeout=60)
            raise
    return process.returncode, output.splitlines()


def _processes_of(folder: RunFolder) -> list[str]:
    """The processes whose environment names the run, in any attempt: Ray's, the driver, and the clients of the warm Python."""
    markers = [f"VERL_FILE_LOGGER_PATH={folder.attempt_metrics(attempt)}".encode() for attempt in (1, 2, 3)]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes().split(b"\0")
            if any(marker in environ for marker in markers):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # ended, or not ours
            continue
    return found
