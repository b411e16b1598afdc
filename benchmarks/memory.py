"""Peak memory of a command and all it starts: `python benchmarks/memory.py [COMMAND ...]`, by default the demo.

Once a second the proportional set sizes (PSS: pages shared by n processes count 1/n in each) of the process, its
descendants and whatever they left in their sessions are added up. Linux only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil

DEMO = [sys.executable, "-m", "posttrain_verl.pipeline", "recipe=demo"]


def processes_of(root: psutil.Process, sessions: set[int]) -> list[psutil.Process]:
    """The descendants, and the members of every session that a descendant ever had (daemons leave the tree)."""
    found = [root, *root.children(recursive=True)]
    for one in found:
        with suppress(ProcessLookupError):
            sessions.add(os.getsid(one.pid))
    known = {one.pid for one in found}
    for one in psutil.process_iter():
        with suppress(ProcessLookupError):
            if one.pid not in known and os.getsid(one.pid) in sessions:
                found.append(one)
    return found


def pss(processes: list[psutil.Process]) -> tuple[int, dict[str, int]]:
    """Bytes in all, and by the name of the process."""
    by_name: dict[str, int] = {}
    for one in processes:
        with suppress(psutil.Error):
            by_name[one.name()] = by_name.get(one.name(), 0) + one.memory_full_info().pss
    return sum(by_name.values()), by_name


def peak(run: subprocess.Popen[bytes]) -> tuple[int, dict[str, int]]:
    """Follow a started command to its end; it must lead a session of its own."""
    root, sessions, highest = psutil.Process(run.pid), set[int](), (0, dict[str, int]())
    while run.poll() is None:
        with suppress(psutil.NoSuchProcess):
            highest = max(highest, pss(processes_of(root, sessions)), key=lambda measured: measured[0])
        time.sleep(1)
    return highest


def main() -> int:
    with subprocess.Popen(sys.argv[1:] or DEMO, start_new_session=True) as run:
        total, by_name = peak(run)
    print(f"peak {total / 2**30:.1f} GiB")
    for name, size in sorted(by_name.items(), key=lambda item: -item[1])[:8]:
        print(f"  {size / 2**30:5.2f} GiB  {name}")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
