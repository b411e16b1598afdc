"""What a run leaves on its machine outside its folder: temporary files, and shared memory nobody maps any more.

Ray ends its workers by force, so that vLLM's sockets and the segments of its message queues (160 MiB each) stay behind
after every run, a successful one too. A segment is known to be a run's because one of its processes was seen to map it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_SHARE = 0.02
_PREFIX = "posttrain-"
# Ray adds 67 characters for its longest socket, and the path of a socket has at most 107. Ray also puts the path of its
# workers' Python into a command line without quotes.
_FIT_FOR_RAY = re.compile(r"[\w./-]{1,17}", re.ASCII)  # and 19 for the folder in it


@contextmanager
def temporary_folder(name: str = "") -> Iterator[Path]:
    """A folder for the temporary files and sockets of one run, deleted after it.

    It is made in TMPDIR, or in /tmp where that is too long or has odd characters.
    """
    usual = tempfile.gettempdir()
    home = usual if _FIT_FOR_RAY.fullmatch(usual) else "/tmp"
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}", dir=home))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a file may vanish while it is being deleted


def is_temporary(folder: Path) -> bool:
    """Whether it is a folder that `temporary_folder` or the warm Python made for this user: the last check before deleting."""
    return folder.name.startswith(_PREFIX) and folder.is_dir() and folder.stat().st_uid == os.getuid()


class Segments:
    """The shared memory of one run, by name: what appears in /dev/shm while it runs and one of its processes maps."""

    def __init__(self, folder: Path = SHARED_MEMORY):
        self._folder = folder
        self._others = set(_listed(folder))
        self._seen: set[str] = set()
        self._next = 0.0
        self.names: set[str] = set()

    def look(self, pids: Iterable[int], at_once: bool = False) -> None:
        """Read the memory maps of the processes if there are names that nobody is known to own.

        Maps are long: unless it is to be `at_once`, reading takes no more than the share `_SHARE` of the time.
        """
        new = set(_listed(self._folder)) - self._others - self.names
        began = time.monotonic()
        if new and (at_once or began >= self._next):
            maps = _maps(pids)
            self.names |= {name for name in new if f"{self._folder}/{name}" in maps}
            self._others |= (new & self._seen) - self.names  # twice not ours: another program's
            self._seen = new
            self._next = began + (time.monotonic() - began) / _SHARE


def unlink_unmapped(names: Iterable[str], patience: float = 0.0, folder: Path = SHARED_MEMORY) -> list[str]:
    """Delete those of the named segments that no process maps, waiting up to `patience` seconds for the others."""
    until, deleted = time.monotonic() + patience, []
    left = [name for name in names if (folder / name).exists()]
    while left:
        maps = _maps(int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
        free = [name for name in left if f"{folder}/{name}" not in maps]
        for name in free:
            (folder / name).unlink(missing_ok=True)
        deleted += free
        left = [name for name in left if name not in free]
        if time.monotonic() >= until:
            break
        time.sleep(0.5)
    return deleted


def _listed(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if not entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:  # a container without /dev/shm
        return []


def _maps(pids: Iterable[int]) -> str:
    """The memory maps of those of the processes that this user may read."""
    maps = []
    for pid in pids:
        with suppress(OSError):
            maps.append(Path(f"/proc/{pid}/maps").read_text(errors="replace"))
    return "".join(maps)
