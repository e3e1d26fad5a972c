"""The wall around a sandboxed process: what the Linux kernel refuses it from one moment on, for good.

Only the standard library is imported, since the process runs without any other package. Two layers:

- seccomp: a short list of system calls is allowed, those on memory, clocks and files that are open already. All others
  fail with EPERM, so the process can open no file, no socket and no other process, and starts no process or thread.
- Landlock, where the kernel has it: every access to files, TCP ports, and processes outside is refused a second time.
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import socket
import struct
import sys

ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "writev": (20, 66),
    "select": (23, None),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getitimer": (36, 102),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "exit": (60, 93),
    "uname": (63, 160),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "pselect6": (270, 72),
    "getrandom": (318, 278),
    "rseq": (334, 293),
}
"""Allowed system calls: their numbers on x86_64 and on aarch64, None where there is no such call."""
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""AUDIT_ARCH_* of linux/audit.h, and the position in ALLOWED's pairs, by the machine's name."""
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
LOAD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
KILL, ALLOW, FAIL_WITH_EPERM = 0x80000000, 0x7FFF0000, 0x00050001
X32 = 0x40000000
"""Bit of the numbers of x86_64's second calling convention, which would reach the same calls under other numbers."""
LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446


def filter_program(machine: str) -> bytes:
    """The seccomp filter for a machine, as an array of ``struct sock_filter``. Raises KeyError for an unknown one."""
    architecture, column = ARCHITECTURES[machine]
    numbers = [pair[column] for pair in ALLOWED.values() if pair[column] is not None]
    refused = len(numbers)  # lines from the first comparison to the line that refuses
    lines = [
        (LOAD, 0, 0, 4),  # seccomp_data.arch
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),  # seccomp_data.nr
        (JUMP_IF_AT_LEAST, refused, 0, X32),
        *[(JUMP_IF_EQUAL, refused - at, 0, number) for at, number in enumerate(numbers)],
        (RETURN, 0, 0, FAIL_WITH_EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def limit(seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Sets limits of this process that it can't raise again: CPU time in seconds, memory and file size in bytes."""
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        _, most = resource.getrlimit(kind)
        allowed = value if most == resource.RLIM_INFINITY else min(value, most)
        with contextlib.suppress(ValueError, OSError):  # macOS takes no limit of the address space
            resource.setrlimit(kind, (allowed, allowed))


def build_wall() -> str | None:
    """Shuts this process in for good, and tries whether that holds.

    Returns:
        The layers, such as ``seccomp + landlock``; None if the system has no seccomp, so that nothing is refused.
    """
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return None
    landlock = _landlock(libc)
    program = ctypes.create_string_buffer(filter_program(platform.machine()))
    lines = (len(program) - 1) // 8
    header = ctypes.create_string_buffer(struct.pack("@HP", lines, ctypes.addressof(program)))
    if libc.prctl(PR_SET_SECCOMP, 2, ctypes.addressof(header), 0, 0) != 0:
        return None
    for attempt in (lambda: os.open("/", os.O_RDONLY), os.fork, socket.socket):
        try:
            attempt()
        except PermissionError:
            continue
        return None
    return "seccomp + landlock" if landlock else "seccomp"


def _landlock(libc: ctypes.CDLL) -> bool:
    """Refuses this process every access that this kernel's Landlock knows. False if it knows none."""
    syscall = libc.syscall
    syscall.restype = ctypes.c_long
    version = syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    ports = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0
    rules = struct.pack("=QQQ", files, ports, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = syscall(LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    held = syscall(LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0
    os.close(ruleset)
    return held
