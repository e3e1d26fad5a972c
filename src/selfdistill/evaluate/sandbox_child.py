"""Runs code that a model wrote. ``sandbox.run_python`` starts this file as a process of its own; it is never imported.

Standard input holds a JSON object with code, token, seconds, memory_bytes and file_bytes. The token is written to
standard output once the code has run to its end; nothing else is written there.
"""

import json
import os
import resource
import sys

REFUSED = (
    "ctypes.",
    "ftplib.",
    "http.client.",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.system",
    "pty.",
    "smtplib.",
    "socket.",
    "sqlite3.",
    "subprocess.",
    "syslog.",
    "urllib.",
)
"""Prefixes of audit events that are always refused: network, processes, native code."""
CHANGES = (
    "os.chflags",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.removexattr",
    "os.rename",
    "os.rmdir",
    "os.setxattr",
    "os.symlink",
    "os.truncate",
    "os.utime",
)
"""Audit events of changes to the file system; their text arguments are paths."""


def limit(seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Sets limits of this process that it can't raise again: CPU time in seconds, memory and file size in bytes."""
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(kind)
        allowed = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (allowed, allowed))


def guard(folder: str) -> None:
    """Refuses network, processes, native code, and changes to files outside ``folder``. It can't be undone."""
    root = os.path.realpath(folder) + os.sep

    def inside(path: object) -> bool:
        return isinstance(path, str | bytes) and os.path.realpath(os.fsdecode(path)).startswith(root)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(REFUSED):
            raise PermissionError(f"not allowed here: {event}")
        if event == "open":
            path, mode, flags = arguments
            writes = bool(set(mode) & set("wax+")) if isinstance(mode, str) else False
            writes = writes or (isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
            if writes and not inside(path):
                raise PermissionError(f"not allowed here: writing {path!r}")
        elif event in CHANGES and not all(inside(a) for a in arguments if isinstance(a, str | bytes)):
            raise PermissionError(f"not allowed here: {event}")

    sys.addaudithook(hook)


def main() -> None:
    """Reads the job, sets the limits, runs the code and writes the token."""
    job = json.load(sys.stdin)
    result = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    limit(job["seconds"], job["memory_bytes"], job["file_bytes"])
    guard(os.getcwd())
    exec(compile(job["code"], "completion", "exec"), {"__name__": "__main__"})
    os.write(result, job["token"].encode())


if __name__ == "__main__":
    main()
