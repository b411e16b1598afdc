"""What the conditions ask of the machine: control groups, swap, disks. All of it is undone at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from false_alarms_parts.trial import Skipped, Trial, lines_of, need_root

from posttrain_verl.machine.processes import find_process

FREE_BYTES = 32 << 20
THROTTLE = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
# The names of version 2 for what version 1 counts as `total_...`
_STAT = {"anon": "rss", "file": "cache", "shmem": "shmem", "file_mapped": "mapped_file", "inactive_anon": "inactive_anon",
         "active_anon": "active_anon", "inactive_file": "inactive_file", "active_file": "active_file"}  # fmt: skip


@contextmanager
def group(controller: str, trial: Trial) -> Iterator[Path]:
    """A control group of its own in which the launch starts; of version 2 where that has the controller."""
    need_root()
    folder = _hierarchy(controller) / f"false_alarms_{os.getpid()}"
    folder.mkdir()
    trial.prefix += ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(folder)]
    try:
        yield folder
    finally:
        _remove(folder)


def _hierarchy(controller: str) -> Path:
    two = _mounted("cgroup2")
    if two and (controller == "freezer" or controller in (two / "cgroup.subtree_control").read_text().split()):
        return two
    one = _mounted("cgroup", controller)
    if one is None or controller == "freezer":
        raise Skipped(f"no control group with {controller}")
    return one


def _mounted(kind: str, option: str = "") -> Path | None:
    """Where a file system of this kind is mounted."""
    for line in lines_of(Path("/proc/mounts")):
        _, folder, found, options, *_ = line.split()
        if found == kind and (not option or option in options.split(",")):
            return Path(folder)
    return None


def _remove(folder: Path) -> None:
    """A group can be removed when its processes are gone, also those that a killed run left."""
    for _ in range(50):
        for pid in lines_of(folder / "cgroup.procs"):
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with suppress(OSError):
            return folder.rmdir()
        time.sleep(0.2)
    raise RuntimeError(f"{folder} is still in use")


def limit_memory(folder: Path, limit: int) -> None:
    two = folder / "memory.max"
    (two if two.exists() else folder / "memory.limit_in_bytes").write_text(str(limit))


def unused_share(folder: Path) -> float:
    """The share of a group's memory that nothing uses, not even for the contents of files."""
    names = ("memory.max", "memory.current")
    if not (folder / names[0]).exists():
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = (int((folder / name).read_text()) for name in names)
    return 1 - used / limit


def show_as_container(folder: Path, trial: Trial) -> None:
    """Let the launch see this group as its /sys/fs/cgroup, as the runtime of a container does.

    One of version 1 is shown with the files of version 2: a copy of what the kernel says, made anew at each tick.
    """
    shown = folder
    if not (folder / "memory.max").exists():
        shown = trial.folder / "cgroup"
        shown.mkdir()
        _copy_as_two(folder, shown)
        trial.also(lambda: _copy_as_two(folder, shown))
    script = 'mount --bind "$0" /sys/fs/cgroup && exec "$@"'
    trial.prefix += ["unshare", "-m", "-C", "sh", "-c", script, str(shown)]


def _copy_as_two(one: Path, two: Path) -> None:
    facts = dict(line.split() for line in lines_of(one / "memory.stat"))
    texts = {
        "memory.max": (one / "memory.limit_in_bytes").read_text(),
        "memory.current": (one / "memory.usage_in_bytes").read_text(),
        "memory.stat": "".join(f"{name} {facts[f'total_{old}']}\n" for name, old in _STAT.items()),
    }
    for name, text in texts.items():  # whole at every moment
        (two / f".{name}").write_text(text)
        (two / f".{name}").rename(two / name)


@contextmanager
def reading(folder: Path, file: Path, limit: int) -> Iterator[None]:
    """A process of the group that reads a file over and over, so that its pages count as in use; it fills what is unused now."""
    size = int(limit * unused_share(folder)) - FREE_BYTES
    script = 'echo $$ > "$0/cgroup.procs"; truncate -s "$1" "$2"; while :; do cat "$2" "$2" > "$3"; sleep 2; done'
    reader = subprocess.Popen(["sh", "-c", script, str(folder), str(size), str(file), os.devnull])
    try:
        yield
    finally:
        reader.kill()
        reader.wait()


def freeze(folder: Path, seconds: float) -> bool:
    """Freeze a group for so long; whether the kernel says that all of it stood still."""
    try:
        (folder / "cgroup.freeze").write_text("1")
        time.sleep(seconds)
        return "frozen 1" in (folder / "cgroup.events").read_text()
    finally:
        (folder / "cgroup.freeze").write_text("0")


def stop(folder: Path, seconds: float) -> int:
    """Stop all processes of a group for so long; how many were."""
    pids = [int(pid) for pid in lines_of(folder / "cgroup.procs")]
    try:
        _signal(pids, signal.SIGSTOP)
        time.sleep(seconds)
        return sum(one is not None and one.is_stopped for one in map(find_process, pids))
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def swap(file: Path, mib: int) -> Iterator[Callable[[], float]]:
    """A swap file; yields what counts the MiB that were read from swap since."""
    need_root()
    subprocess.run(["dd", "if=/dev/zero", f"of={file}", "bs=1M", f"count={mib}", "status=none"], check=True)
    file.chmod(0o600)
    subprocess.run(["mkswap", file], check=True, stdout=subprocess.DEVNULL)
    if subprocess.run(["swapon", file], stderr=subprocess.DEVNULL).returncode:
        file.unlink()
        raise Skipped("no swap file can be used here")
    before = _swapped_in()
    try:
        yield lambda: _swapped_in() - before
    finally:
        subprocess.run(["swapoff", file], check=True)
        file.unlink()


def _swapped_in() -> float:
    facts = dict(line.split() for line in lines_of(Path("/proc/vmstat")))
    return int(facts["pswpin"]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def disk(trial: Trial, making: list[str], mounting: list[str]) -> Iterator[str]:
    """An ext4 of its own for the run folder; yields the numbers of its device, as `7:0`. The run folder is kept."""
    need_root()
    image, folder = trial.folder / "image", trial.folder / "disk"
    folder.mkdir()
    subprocess.run(["truncate", "-s", "8G", image], check=True)
    make = ["mkfs.ext4", "-q", "-E", "nodiscard", *making, image]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if subprocess.run(["mount", "-o", ",".join(["loop", "noinit_itable", *mounting]), image, folder]).returncode:
        raise Skipped("a loop device cannot be mounted here")
    kept, trial.runs = trial.runs, folder / "runs"
    try:
        number = folder.stat().st_dev
        yield f"{os.major(number)}:{os.minor(number)}"
        if trial.runs != kept:
            shutil.copytree(trial.runs, kept, symlinks=True)
    finally:
        subprocess.run(["umount", folder], check=True)
        image.unlink()


@contextmanager
def throttled(device: str, bytes_a_second: int) -> Iterator[Callable[[], float]]:
    """Let nothing write faster to a device; yields what counts the MiB written to it.

    Set for the root group: the kernel's own writer is in it.
    """
    if not THROTTLE.exists():
        raise Skipped("no blkio controller of version 1: the root of version 2 has no limit")
    THROTTLE.write_text(f"{device} {bytes_a_second}")
    before = _mib_written(device)
    try:
        yield lambda: _mib_written(device) - before
    finally:
        THROTTLE.write_text(f"{device} 0")


def _mib_written(device: str) -> float:
    return int(Path(f"/sys/dev/block/{device}/stat").read_text().split()[6]) * 512 / 2**20
