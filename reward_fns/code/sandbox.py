"""A pool of warm sandboxes for programs that are not trusted, and the packages that a sandbox can show.

A sandbox is bubblewrap (own user, mount, process, network and IPC namespaces; the interpreter read-only and nothing else of the
machine) around a warm Python that forks a further confined process per program (`inside/`). What a program wrote, started or
allocated ends with it. Besides the standard library a sandbox shows only packages that are named here, read-only, and only when a
reward asks for them: the tests of EvalPlus compare with numpy. Without bubblewrap a program runs under resource limits alone, and
only when the user says so: it can then read what this user can read, and reach the network.
"""

import importlib.util
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from reward_fns.code import cores
from reward_fns.code.digits import dump_numbers
from reward_fns.forkserver import ForkServer

PACKAGE_FOLDERS = {"numpy": ("numpy", "numpy.libs")}  # each package, and what its wheel puts beside it
PACKAGES_INSIDE = "/packages"


def check_packages(names: Iterable[str]) -> tuple[str, ...]:
    """The names in order, each once. Raises ValueError for one that no sandbox shows."""
    wanted = tuple(sorted(set(names)))
    if unknown := [name for name in wanted if name not in PACKAGE_FOLDERS]:
        raise ValueError(f"packages={unknown}: a sandbox shows only {', '.join(PACKAGE_FOLDERS)}")
    return wanted


def package_site(name: str) -> Path:
    """The folder that holds the package. Raises ModuleNotFoundError when it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed", name=name)
    return Path(spec.origin).parents[1]


PACKAGE = Path(__file__).resolve().parents[1]
PROGRAMS_PER_SANDBOX = 1000
UNPRIVILEGED = 65534  # nobody: limits on processes do not hold for root, and bubblewrap needs no root
GRACE_SECONDS = 5.0  # for the report of a keeper that had to kill, on a busy machine
START = (
    "import sys; fd, isolation, packages, home, *folders = sys.argv[1:]; sys.path[:] = [home, *sys.path, *folders]; "
    "from reward_fns.code.inside.zygote import main; main(int(fd), isolation, packages.split())"
)
WALLS = """--unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try --new-session
--uid 1000 --gid 1000 --cap-add ALL --hostname sandbox --ro-bind /usr /usr"""
ROOMS = "--proc /proc --dev /dev --tmpfs /tmp --remount-ro /dev --remount-ro / --chdir /tmp"
# Nothing of the trainer's environment goes in: it may hold keys.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
ALLOW_UNISOLATED = "POSTTRAIN_ALLOW_UNISOLATED_CODE"


class SandboxUnavailable(RuntimeError):
    """Model code cannot be isolated on this machine. The message says why and what to do."""

    def __init__(self, reason: str):
        super().__init__(
            f"{reason}. Model code is not run unisolated. Install it (apt-get install bubblewrap) and allow user "
            "namespaces, or grade on a SandboxFusion server (sandbox_url=...), or accept that model code runs with "
            f"this user's rights: {ALLOW_UNISOLATED}=1"
        )


class SandboxError(RuntimeError):
    """The sandbox failed; nothing is known about the program."""


@dataclass(frozen=True)
class Limits:
    """Seconds of wall clock (processor time: one more), bytes of memory over all processes of a program and bytes of
    any file it writes (its output too), and number of processes and threads."""

    wall: float = 10.0
    memory: int = 1 << 30
    output: int = 16 << 20
    processes: int = 48

    def request(self, kind: bytes) -> bytes:
        return b"%s %f %d %d %d" % (kind, self.wall, self.memory, self.output, self.processes)


@dataclass(frozen=True)
class Run:
    """How a script ended: `code` as subprocess gives it, `why` is "time", "memory" or "", and what it printed."""

    code: int
    why: str
    stdout: str
    stderr: str


class Sandbox:
    """One warm sandbox; one program at a time."""

    def __init__(self, isolation: str, packages: tuple[str, ...] = ()):
        # A program's matrix product takes one core, as the program does.
        variables = ENVIRONMENT | ({"OPENBLAS_NUM_THREADS": "1"} if packages else {})
        rights = process_privileges(isolation)
        self.server = ForkServer(lambda fd: sandbox_command(isolation, fd, packages), env=variables, **rights)
        self.programs = 0

    def start(self, kind: bytes, fds: list[int], limits: Limits) -> socket.socket:
        """Start one process; the socket gives its report, and closing it kills the process."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.server.fork(limits.request(kind), [theirs.fileno(), *fds])
        return ours

    def run_script(self, source: str, stdin: str, limits: Limits) -> Run:
        """Run `source` as a script. Raises SandboxError when the sandbox, not the script, failed."""
        with ExitStack() as stack:
            files = [stack.enter_context(memory_file(text)) for text in (source, stdin, "", "")]
            status = stack.enter_context(self.start(b"script", files, limits))
            status.settimeout(limits.wall + GRACE_SECONDS)
            try:
                data = status.recv(4096)
            except TimeoutError as error:
                raise SandboxError(f"no report within {limits.wall + GRACE_SECONDS:g} s") from error
            if not data:
                raise SandboxError("the sandbox ended without a report")
            report = json.loads(data)
            out, err = read_file(files[2], limits.output), read_file(files[3], 2000)
        return Run(int(str(report["code"])), str(report["why"]), out, err)

    def run_tests(self, source: str, spec: dict[str, object], limits: Limits) -> dict[str, object]:
        """Judge `source` by `spec`, see `inside.judge`; "why" is "time" or "memory" when a limit ended it.

        Raises SandboxError when the sandbox or the judge failed."""
        with ExitStack() as stack:
            request = json.dumps({"source": source, "conventions": bool(spec.get("conventions"))})
            texts = (request, dump_numbers(spec), "")
            code, tests, out = (stack.enter_context(memory_file(text)) for text in texts)
            begin = time.monotonic()  # before the judge's own clock, by which it ends
            left, right = socket.socketpair()
            with left, right:
                program = stack.enter_context(self.start(b"program", [code, left.fileno()], limits))
                judged = stack.enter_context(self.start(b"judge", [tests, right.fileno(), out], limits))
            if not select.select([judged], [], [], limits.wall + GRACE_SECONDS)[0]:
                raise SandboxError(f"the judge did not end within {limits.wall + GRACE_SECONDS:g} s")
            verdict, stopped = read_file(out, limits.output), ""
            if select.select([program], [], [], 0)[0]:  # the keeper has reported: a limit may have ended the program
                stopped = str(json.loads(program.recv(4096) or b"{}").get("why", ""))
        if verdict:
            return dict(json.loads(verdict))
        if stopped or time.monotonic() - begin >= limits.wall:
            return {"passed": [], "why": f"{stopped or 'time'} limit", "unsupported": False}
        raise SandboxError("the judge ended without a verdict")


@contextmanager
def memory_file(text: str) -> Iterator[int]:
    """A descriptor of an anonymous file that holds `text`, at its beginning."""
    fd = os.memfd_create("reward")
    try:
        data = memoryview(text.encode("utf-8", "surrogateescape"))
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def read_file(fd: int, limit: int) -> str:
    return os.pread(fd, limit, 0).decode("utf-8", "replace")


def process_privileges(isolation: str) -> dict[str, Any]:
    if isolation == "bwrap" and os.geteuid() == 0:
        return {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}
    return {}


def sandbox_command(isolation: str, fd: int, packages: tuple[str, ...] = ()) -> list[str]:
    named = " ".join(packages)
    if isolation == "bwrap":
        python = find_interpreter(packages)
        folders = ["/sandbox", *([PACKAGES_INSIDE] if packages else [])]
        return [*sandbox_walls(python, packages), python, "-I", "-S", "-c", START, str(fd), isolation, named, *folders]
    folders = [str(PACKAGE.parent), *(str(package_site(name)) for name in packages)]
    return [sys.executable, "-P", "-S", "-c", START, str(fd), isolation, named, *folders]


def sandbox_walls(python: str, packages: tuple[str, ...] = ()) -> list[str]:
    """bubblewrap and what it shows of the machine: /usr, the interpreter's folder, the sandbox's own code, the packages."""
    folder = str(Path(python).parents[1])
    command = [shutil.which("bwrap") or "bwrap", *WALLS.split()]
    for name in ("bin", "sbin", "lib", "lib64"):
        command += ["--symlink", f"usr/{name}", f"/{name}"] if Path(f"/{name}").exists() else []
    command += [] if folder.startswith("/usr") else ["--ro-bind", folder, folder]
    for name in ("forkserver.py", "code/inside"):
        command += ["--ro-bind", str(PACKAGE / name), f"/sandbox/reward_fns/{name}"]
    for name in packages:
        for part in PACKAGE_FOLDERS[name]:
            if (source := package_site(name) / part).is_dir():
                command += ["--ro-bind", str(source), f"{PACKAGES_INSIDE}/{part}"]
    return command + ROOMS.split()


@lru_cache(maxsize=8)
def find_interpreter(packages: tuple[str, ...] = ()) -> str:
    """A Python that starts inside the sandbox, imports the packages and can be confined: this one's own base, else the system's.

    Raises SandboxUnavailable."""
    if shutil.which("bwrap") is None:
        raise SandboxUnavailable("bubblewrap is not installed")
    imports = f"import sys; sys.path += ['/sandbox', {PACKAGES_INSIDE!r}]; import {', '.join(('sys', *packages))}"
    confine = "from reward_fns.code.inside import confine; confine.drop_capabilities(); confine.refuse_system_calls()"
    seen = []
    for python in dict.fromkeys((os.path.realpath(sys.executable), "/usr/bin/python3")):
        probe = subprocess.run(
            [*sandbox_walls(python, packages), python, "-I", "-S", "-c", f"{imports}; {confine}"],
            capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False, **process_privileges("bwrap"),
        )  # fmt: skip
        if probe.returncode == 0:
            return python
        seen.append(f"{python}: {probe.stderr.strip()[-300:]}")
    what = f" with {', '.join(packages)}" if packages else ""
    raise SandboxUnavailable(f"bubblewrap cannot start a confined Python{what} here: " + "; ".join(seen))


def isolation_here(packages: tuple[str, ...] = ()) -> str:
    """ "bwrap", or "none" when the user allowed it and bubblewrap does not work. Raises SandboxUnavailable."""
    try:
        find_interpreter(packages)
    except SandboxUnavailable:
        if os.environ.get(ALLOW_UNISOLATED) == "1":
            return "none"
        raise
    return "bwrap"


class SandboxPool:
    """Up to `size` warm sandboxes that show `packages`, started when needed. Thread-safe.

    Without a size it is this process's share of the cores: VeRL grades in several processes, and each has a pool."""

    def __init__(self, size: int | None = None, isolation: str | None = None, packages: tuple[str, ...] = ()):
        self.packages = packages
        self.isolation = isolation or isolation_here(packages)
        self._slots = threading.BoundedSemaphore(size or cores.core_share())
        self._idle: list[Sandbox] = []

    @contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        """A sandbox for one program. It is replaced after an error and after PROGRAMS_PER_SANDBOX programs."""
        with self._slots:
            box = self._take()
            try:
                yield box
            except BaseException:
                box.server.close()
                raise
            box.programs += 1
            if box.programs < PROGRAMS_PER_SANDBOX and box.server.alive():
                self._idle.append(box)
            else:
                box.server.close()

    def _take(self) -> Sandbox:
        while self._idle:
            box = self._idle.pop()
            if box.server.alive():
                return box
        return Sandbox(self.isolation, self.packages)

    def close(self) -> None:
        """End every idle sandbox; one in use ends with its program's grade."""
        while self._idle:
            self._idle.pop().server.close()
