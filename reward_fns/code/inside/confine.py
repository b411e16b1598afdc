"""What a process gives up before it runs code it does not trust. Linux, by ctypes: no dependency inside the sandbox.

bubblewrap has made the outer walls (own user, network and mount namespaces, a read-only file system of the interpreter
alone). Inside them each program gets its own process namespace, scratch folder and limits, so that programs that share
a warm sandbox can neither see, signal nor leave anything for one another.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID = 0x00020000, 0x08000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 1 << 18
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 22, 47, 4
SECCOMP_MODE_FILTER = 2
SCRATCH = "/tmp"

libc = ctypes.CDLL(None, use_errno=True)


def check_call(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def new_process_namespace() -> None:
    """The next fork becomes process 1 of a namespace that the kernel empties when it ends."""
    check_call(libc.unshare(CLONE_NEWPID), "unshare")


def new_view(scratch_bytes: int) -> None:
    """Own /proc (this program's processes only), own empty scratch folder, own System V and message-queue space."""
    check_call(libc.unshare(CLONE_NEWNS | CLONE_NEWIPC), "unshare")
    check_call(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount private")
    flags = MS_NOSUID | MS_NODEV
    check_call(libc.mount(b"proc", b"/proc", b"proc", flags | MS_NOEXEC, None), "mount /proc")
    size = f"size={scratch_bytes},nr_inodes=4096,mode=700".encode()
    check_call(libc.mount(b"tmpfs", SCRATCH.encode(), b"tmpfs", flags, size), "mount scratch")
    os.chdir(SCRATCH)


def set_limits(memory: int, cpu: int, processes: int, files: int, output: int) -> None:
    """Bytes of address space, seconds of processor, processes, descriptors, and bytes of any one file."""
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))


def drop_capabilities() -> None:
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    check_call(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    check_call(libc.capset(header, nothing), "capset")


# What no solution to an exercise needs: the ways to other machines, to other namespaces, to memory that no limit
# counts, to further sessions (the scheduler gives each a share of its own), and the widest doors of the kernel.
# Numbers: x86-64, then the table that arm64 shares with new ports.
REFUSED = {
    "socket": (41, 198), "memfd_create": (319, 279), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "fsopen": (430, 430), "fsmount": (432, 432), "move_mount": (429, 429),
    "open_tree": (428, 428), "mount_setattr": (442, 442), "pidfd_getfd": (438, 438), "memfd_secret": (447, 447),
    "clone3": (435, 435), "setsid": (112, 157),
}  # fmt: skip
CLONE = (56, 220)
NAMESPACE_FLAGS = 0x7E020080
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


def refuse_system_calls() -> None:
    """Install the seccomp filter; it holds for this process and all that it starts.

    Raises OSError where it cannot be installed, and on a machine whose numbers of system calls are not in the table: a
    program must not run without the filter. `sandbox.interpreter` tries it before any program is graded.
    """
    if platform.machine() not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise OSError(f"no filter of system calls for a machine of the kind {platform.machine()}, only for {known}")
    column, architecture = ARCHITECTURES[platform.machine()]
    code = assemble_filter(column, architecture)
    filters = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(filters))
    check_call(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")


def assemble_filter(column: int, architecture: int) -> bytes:
    """Classic BPF: another architecture's calls kill, refused ones fail with EPERM, all others pass."""
    step = struct.Struct("HBBI").pack
    code = [step(LOAD, 0, 0, 4), step(JUMP_EQUAL, 1, 0, architecture), step(RETURN, 0, 0, KILL), step(LOAD, 0, 0, 0)]
    if column == 0:
        code += [step(JUMP_AT_LEAST, 0, 1, 0x40000000), step(RETURN, 0, 0, KILL)]  # the x32 numbers
    for name, numbers in REFUSED.items():
        verdict = ENOSYS if name == "clone3" else EPERM  # libc then falls back to clone, whose flags can be read
        code += [step(JUMP_EQUAL, 0, 1, numbers[column]), step(RETURN, 0, 0, verdict)]
    code += [step(JUMP_EQUAL, 0, 3, CLONE[column]), step(LOAD, 0, 0, 16), step(JUMP_SET, 0, 1, NAMESPACE_FLAGS)]
    return b"".join([*code, step(RETURN, 0, 0, EPERM), step(RETURN, 0, 0, ALLOW)])
