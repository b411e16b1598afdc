"""The conditions in which a healthy run looks odd. Each changes a `Trial` and says why such a run is healthy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from false_alarms_parts import machine
from false_alarms_parts.trial import RL, SFT, Trial, lines_of, need_root

GIB = 1 << 30
# A run takes, page cache left aside, about 2.3 GiB (GRPO) and 1.2 GiB (SFT).
CONTAINER_BYTES = {RL: 4 * GIB, SFT: 3 * GIB}
SWAPPING_BYTES = {RL: 3 * GIB // 2, SFT: 3 * GIB // 4}
SUSPENDED_SECONDS = 75
LATE_SECONDS = 40  # for each of the two sets of data
ROLLOUTS = 16  # of one step
IN_THIRD_STEP = f"{2 * ROLLOUTS} < calls <= {3 * ROLLOUTS}"
CHILDREN = """import ray
        tasks = [ray.remote(num_cpus=0)(lambda: os.getpid()).remote() for _ in range(2)]
        for code in (0, 1):
            subprocess.run([sys.executable, "-c", f"import time; time.sleep(0.3); raise SystemExit({code})"])
        subprocess.run(["git", "--version"], stdout=subprocess.DEVNULL)
        with open(os.environ["FALSE_ALARMS_NOTE"], "a") as note:
            note.write(f"{ray.get(tasks)}\\n")
"""
CLOCK = """
import time
real, real_ns = time.time, time.time_ns

def offset():
    with open({file!r}) as file:
        return int(file.read() or 0)

time.time = lambda: real() + offset()
time.time_ns = lambda: real_ns() + offset() * 10**9
"""
DATASET = """
import time
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
from verl.utils.dataset.rl_dataset import RLHFDataset

class Late:
    def __init__(self, *args, **kwargs):
        until = time.monotonic() + {seconds}
        while time.monotonic() < until:
            pass
        super().__init__(*args, **kwargs)

class LateRL(Late, RLHFDataset):
    pass

class LateSFT(Late, MultiTurnSFTDataset):
    pass
"""


@contextmanager
def plain(trial: Trial) -> Iterator[None]:
    """Nothing is odd; such a run also fills the caches that the other conditions share."""
    yield


@contextmanager
def fresh_home(trial: Trial) -> Iterator[None]:
    """A new user: every cache is built, and vLLM inspects the model's class in a child of its server that ends in mid-run."""
    trial.home = trial.folder / "home"
    (trial.home / "tmp").mkdir(parents=True)
    trial.variables = {"TMPDIR": f"{trial.home}/tmp"}
    yield
    trial.proof = f"vLLM wrote {len([*trial.home.glob('.cache/vllm/modelinfos/*')])} infos on models"


@contextmanager
def load(trial: Trial) -> Iterator[None]:
    """Eight busy processes beside it: everything takes several times as long, and imports are silent for a minute."""
    loop = ["sh", "-c", "while :; do :; done"]  # in sessions of their own: Linux may share the cores out by session
    busy = [subprocess.Popen(loop, start_new_session=True) for _ in range(8)]
    try:
        yield
        trial.proof = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    finally:
        for one in busy:
            one.kill()
            one.wait()


@contextmanager
def swapping(trial: Trial) -> Iterator[None]:
    """Less memory than it takes, and swap: the kernel takes pages away and reads them again, everything crawls."""
    limit = SWAPPING_BYTES[trial.recipe]
    with machine.swap(trial.folder / "swap", 4 << 10) as read, machine.group("memory", trial) as group:
        machine.limit_memory(group, limit)
        yield
        trial.proof = f"limit {limit / GIB:.2f} GiB, {read():.0f} MiB read from swap"


@contextmanager
def container(trial: Trial) -> Iterator[None]:
    """A memory limit, with contents of files up to it that are used again and again: it looks full and is not."""
    limit, shares = CONTAINER_BYTES[trial.recipe], list[float]()
    trial.words = [f"trainer.total_training_steps={12 if trial.recipe == RL else 60}"]
    with machine.group("memory", trial) as group, ExitStack() as stack:
        machine.limit_memory(group, limit)
        if trial.number % 2 == 0:  # else it is a job's group, as a batch system's, and is seen by its own path
            machine.show_as_container(group, trial)
        reading = machine.reading(group, trial.folder / "read", limit)
        trial.once(lambda: trial.steps >= 1, lambda: stack.enter_context(reading))  # vLLM does not start in a full one
        trial.also(lambda: shares.append(machine.unused_share(group)))
        yield
    full = sum(share < 0.03 for share in shares) / 2
    trial.proof = f"limit {limit / GIB:.0f} GiB, less than 3 % of it unused for {full:.0f} s"


@contextmanager
def slow_disk(trial: Trial) -> Iterator[None]:
    """A disk of 64 KiB/s that each write waits for: checkpoints take long, without a word."""
    trial.words += ["trainer.save_freq=1", "trainer.total_training_steps=3"]
    fast = trial.runs
    disk = machine.disk(trial, ["-O", "^has_journal"], ["sync"])
    with disk as device, machine.throttled(device, 64 << 10) as written:
        if trial.number % 2 == 0:  # the checkpoints alone; else the supervisor has to wait for the disk, too
            slow, trial.runs = trial.runs, fast
            slow.mkdir()
            trial.once(lambda: trial.run.log.exists(), lambda: trial.run.checkpoints.symlink_to(slow))
        yield
        trial.proof = f"{written():.1f} MiB written at 64 KiB/s"


@contextmanager
def suspended(trial: Trial) -> Iterator[None]:
    """A laptop's lid was closed: all of it, the supervisor too, stands still for longer than the limit, then goes on."""

    def freeze() -> None:
        stage, frozen = trial.stage, machine.freeze(group, SUSPENDED_SECONDS)
        trial.proof = f"{'frozen' if frozen else 'NOT FROZEN'} for {SUSPENDED_SECONDS} s in: {stage}"

    trial.reward = "time.sleep(0.5)"
    with machine.group("freezer", trial) as group:
        trial.once(lambda: _is_in_the_middle(trial), freeze)
        yield


@contextmanager
def stopped(trial: Trial) -> Iterator[None]:
    """The same by signals, as a batch system that makes room: SIGSTOP to all of it, later SIGCONT."""

    def stop() -> None:
        stage, count = trial.stage, machine.stop(group, SUSPENDED_SECONDS)
        trial.proof = f"{count} processes stopped for {SUSPENDED_SECONDS} s in: {stage}"

    trial.reward = "time.sleep(0.5)"
    with machine.group("freezer", trial) as group:
        trial.once(lambda: _is_in_the_middle(trial), stop)
        yield


def _is_in_the_middle(trial: Trial) -> bool:
    """While it starts in every other run, else after the first step; in GRPO while rewards are waited for in silence."""
    if trial.number % 2:
        return bool(trial.stage)
    return trial.steps >= 1 and (trial.recipe == SFT or time.time() - trial.run.log.stat().st_mtime > 2)


@contextmanager
def clock_jumps(trial: Trial) -> Iterator[None]:
    """The wall clock is set an hour ahead, and later an hour behind, as by NTP on a machine whose battery is empty.

    What Python asks of the clock, in every process; Ray's C++ keeps the right time. With libfaketime `time.sleep` fails or hangs.
    """
    offset, library = trial.folder / "offset", trial.folder / "python"
    library.mkdir()
    offset.write_text("0")
    (library / "sitecustomize.py").write_text(CLOCK.format(file=str(offset)))
    trial.variables = {"PYTHONPATH": os.pathsep.join(filter(None, [str(library), os.environ.get("PYTHONPATH")]))}
    trial.words = ["trainer.total_training_steps=6"]
    quick = trial.recipe == SFT  # its steps are over within a second, so it happens while it starts
    trial.once(lambda: bool(trial.stage) if quick else trial.steps >= 1, lambda: offset.write_text("3600"))
    trial.once(lambda: "model" in trial.stage if quick else trial.steps >= 3, lambda: offset.write_text("-3600"))
    hours: set[int] = set()  # that the driver's clock was seen to be ahead
    trial.also(lambda: hours.add(round((trial.stage_since - time.time()) / 3600)) if trial.stage else None)
    yield
    trial.proof = f"the driver's clock was {', '.join(f'{one:+d}' for one in sorted(hours))} h off"


@contextmanager
def coarse_times(trial: Trial) -> Iterator[None]:
    """A file system that keeps whole seconds: what was written twice in one second looks unchanged."""
    with machine.disk(trial, ["-I", "128"], []):
        yield
        found = [file.stat().st_mtime_ns % 10**9 for file in trial.run.path.rglob("*")]
        trial.proof = f"{found.count(0)} of {len(found)} files have times of whole seconds"


@contextmanager
def late_start(trial: Trial) -> Iterator[None]:
    """Before the first step something is computed for long without a word, as tokenizing and compiling are."""
    file = trial.folder / "late.py"
    file.write_text(DATASET.format(seconds=LATE_SECONDS))
    name = "LateRL" if trial.recipe == RL else "LateSFT"
    trial.words = [f"data.custom_cls.path={file}", f"data.custom_cls.name={name}"]
    yield
    trial.proof = f"{LATE_SECONDS} s for each set of data"


@contextmanager
def long_step(trial: Trial) -> Iterator[None]:
    """One step lasts ten times the longest before, as its answers wait for a slow judge; rollouts finish meanwhile."""
    trial.reward = f"time.sleep(4 if {IN_THIRD_STEP} else 0)"
    yield
    trial.proof = _step_seconds(trial)


@contextmanager
def long_computed_step(trial: Trial) -> Iterator[None]:
    """The same with a grader that computes."""
    trial.reward = (
        f"until = time.monotonic() + (4 if {IN_THIRD_STEP} else 0)\n        while time.monotonic() < until: pass"
    )
    yield
    trial.proof = _step_seconds(trial)


@contextmanager
def slow_reward(trial: Trial) -> Iterator[None]:
    """Each sample waits three seconds for a remote judge: nothing computes, some are answered within every limit."""
    trial.reward = "time.sleep(3)"
    yield
    trial.proof = _step_seconds(trial)


def _step_seconds(trial: Trial) -> str:
    steps = [json.loads(line)["data"]["timing_s/step"] for line in lines_of(trial.run.metrics)]
    return "steps of " + ", ".join(f"{one:.0f}" for one in steps) + " s"


@contextmanager
def rotated_log(trial: Trial) -> Iterator[None]:
    """logrotate takes log.txt away (create: the writer goes on in the old one) or empties it (copytruncate)."""
    done: list[float] = []

    def rotate() -> None:
        log = trial.run.log
        if not log.exists() or (done and time.monotonic() < done[-1] + 3):
            return
        done.append(time.monotonic())
        if trial.number % 2:
            shutil.copyfile(log, f"{log}.1")
            os.truncate(log, 0)
        else:
            log.rename(f"{log}.{len(done)}")
            log.touch()

    trial.tick = rotate
    yield
    trial.proof = f"{'copytruncate' if trial.number % 2 else 'create'}, {len(done)} times"


@contextmanager
def small_shm(trial: Trial) -> Iterator[None]:
    """Docker's /dev/shm of 64 MB: Ray goes to the disk instead."""
    need_root()
    script = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && df -m /dev/shm > "$0" && exec "$@"'
    trial.prefix = ["unshare", "-m", "sh", "-c", script, f"{trial.folder}/shm"]
    yield
    trial.proof = lines_of(trial.folder / "shm")[1].split()[1] + " MiB"


@contextmanager
def reaped_workers(trial: Trial) -> Iterator[None]:
    """Children come and go, some with status 1, and Ray ends idle workers: none of them is missed."""
    note = trial.folder / "note"
    trial.variables = {"RAY_num_workers_soft_limit": "1", "RAY_idle_worker_killing_time_threshold_ms": "200",
                       "FALSE_ALARMS_NOTE": str(note)}  # fmt: skip
    trial.reward = CHILDREN
    yield
    pids = {pid for line in lines_of(note) for pid in json.loads(line)}
    trial.proof = f"{3 * len(lines_of(note))} children, {len(pids)} workers of Ray that came and went"


BOTH = [RL, SFT]
CONDITIONS: dict[str, tuple[Callable[[Trial], AbstractContextManager[None]], list[str]]] = {  # and the runs of each
    "plain": (plain, BOTH),
    "fresh home": (fresh_home, [RL, RL, SFT]),
    "load 8": (load, BOTH),
    "swapping": (swapping, BOTH),
    "container": (container, [RL, RL, SFT]),
    "slow disk": (slow_disk, BOTH),
    "suspended": (suspended, [RL, RL, SFT]),
    "stopped": (stopped, BOTH),
    "clock jumps": (clock_jumps, BOTH),
    "coarse times": (coarse_times, BOTH),
    "late start": (late_start, BOTH),
    "long step": (long_step, [RL]),
    "long computed step": (long_computed_step, [RL]),
    "slow reward": (slow_reward, [RL]),
    "rotated log": (rotated_log, [RL, RL, SFT, SFT]),
    "small /dev/shm": (small_shm, BOTH),
    "reaped workers": (reaped_workers, [RL]),
}
