"""What a run leaves on its machine outside its folder: processes, temporary files, and shared memory nobody maps any more.

Ray ends its workers by force, so that vLLM's sockets and the segments of its message queues (160 MiB each) stay behind
after every run, a successful one too.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_SEGMENTS = ("psm_*", "sem.mp-*")  # Python's multiprocessing: shared memory, and the locks of its queues
# Ray adds 67 characters for its longest socket, and the path of a socket has at most 107.
_LONGEST_FOLDER = 36


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the temporary files of one run, deleted after it."""
    short = len(tempfile.gettempdir()) + len("/posttrain-12345678") <= _LONGEST_FOLDER
    folder = Path(tempfile.mkdtemp(prefix="posttrain-", dir=None if short else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a file may vanish while it is being deleted


def unlink_segments(since: float, patience: float = 0.0, folder: Path = SHARED_MEMORY) -> None:
    """Delete this user's shared memory made after `since` (seconds since the epoch) that no process maps any more.

    Waits up to `patience` seconds for processes that still map some.
    """
    until = time.monotonic() + patience
    while made := [path for name in _SEGMENTS for path in folder.glob(name) if _is_own(path, since)]:
        mapped = _mapped()
        for path in made:
            if str(path) not in mapped:
                path.unlink(missing_ok=True)
        if time.monotonic() >= until:
            return
        time.sleep(0.5)


def kill_session(session: int) -> None:
    """Kill every process of the session; Ray and vLLM start process groups of their own in it."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(entry.name)) == session:
                os.kill(int(entry.name), signal.SIGKILL)


def _is_own(path: Path, since: float) -> bool:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return False
    return facts.st_uid == os.getuid() and facts.st_mtime >= since


def _mapped() -> str:
    """The memory maps of every process that this user may read."""
    maps = []
    for file in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            maps.append(file.read_text(errors="replace"))
    return "".join(maps)
