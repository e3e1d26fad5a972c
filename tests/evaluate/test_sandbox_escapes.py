"""Programs that try to get out of the sandbox, or to pass without being right.

Each attempt either raises, or leaves something in ``result``; one that ends with a true ``result`` has succeeded. So
that the tests can fail, the attempts in REACHABLE are made without the wall too, where they succeed.
"""

import json
import os
import secrets
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from selfdistill.evaluate import sandbox
from selfdistill.evaluate.sandbox import check_program
from selfdistill.evaluate.sandbox_wall import (
    ALLOW,
    ALLOWED,
    ARCHITECTURES,
    FAIL_WITH_EPERM,
    JUMP_IF_EQUAL,
    KILL,
    LOAD,
    RETURN,
    filter_program,
)
from selfdistill.tasks.task import Program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the wall is Linux's")

SYSCALL = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); "
READING = {
    "open": "result = open(SECRET).read()",
    "os.open": "import os; result = os.read(os.open(SECRET, os.O_RDONLY), 9)",
    "pathlib": "import pathlib; result = pathlib.Path(SECRET).read_bytes()",
    "directory descriptor": "import os; result = os.open('secret', os.O_RDONLY, dir_fd=os.open(FOLDER, os.O_RDONLY))",
    "list": "import os; result = os.listdir(FOLDER)",
    "scan": "import os; result = list(os.scandir(FOLDER))",
    "glob": "import glob; result = glob.glob(FOLDER + '/*')",
    "stat": "import os; result = os.stat(SECRET)",
    "own program": "import os; result = os.readlink('/proc/self/exe')",
    "parent's memory map": "import os; result = open(f'/proc/{os.getppid()}/maps').read()",
    "parent's environment": "import os; result = open(f'/proc/{os.getppid()}/environ').read()",
    "parent's memory": "import os; result = os.open(f'/proc/{os.getppid()}/mem', os.O_RDONLY)",
    "own descriptors": "import os; result = os.listdir('/proc/self/fd')",
    "processes": "import os; result = [n for n in os.listdir('/proc') if n.isdigit()]",
    "accounts": "result = open('/etc/passwd').read()",
    "linecache": "import linecache; result = linecache.getlines(SECRET)",
    "own module": "import importlib.util as u; m = u.spec_from_file_location('m', MODULE); "
    "x = u.module_from_spec(m); m.loader.exec_module(x); result = x.here",
    "C open": SYSCALL + "result = libc.open(SECRET.encode(), 0) >= 0",
    "C openat2": SYSCALL + "how = (ctypes.c_uint64 * 3)(0, 0, 0); "
    "result = libc.syscall(437, -100, SECRET.encode(), how, 24) >= 0",
}
WRITING = {
    "open": "result = open(FOLDER + '/new', 'w')",
    "append": "result = open(SECRET, 'a').write('x')",
    "empty by reading": "import os; result = os.open(SECRET, os.O_RDONLY | os.O_TRUNC)",
    "temporary": "import tempfile; result = tempfile.mkstemp()",
    "mkdir": "import os; os.mkdir(FOLDER + '/d'); result = 1",
    "mkfifo": "import os; os.mkfifo(FOLDER + '/f'); result = 1",
    "symlink": "import os; os.symlink('/', FOLDER + '/s'); result = 1",
    "link": "import os; os.link(SECRET, FOLDER + '/l'); result = 1",
    "chmod": "import os; os.chmod(SECRET, 0o777); result = 1",
    "utime": "import os; os.utime(SECRET); result = 1",
    "truncate": "import os; os.truncate(SECRET, 0); result = 1",
    "rename": "import os; os.rename(SECRET, SECRET + '2'); result = 1",
    "remove": "import os; os.remove(MODULE); result = 1",
    "memory file": "import os; result = os.memfd_create('x') >= 0",
    "database": "import sqlite3; sqlite3.connect(FOLDER + '/db').execute('create table t (a)'); result = 1",
    "C creat": SYSCALL + "result = libc.creat((FOLDER + '/c').encode(), 0o666) >= 0",
}
NETWORK = {
    "tcp": "import socket; result = socket.create_connection(ADDRESS, 2)",
    "udp": "import socket; result = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ADDRESS)",
    "unix": "import socket; result = socket.socket(socket.AF_UNIX)",
    "netlink": "import socket; result = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "pair": "import socket; result = socket.socketpair()",
    "C socket": SYSCALL + "result = libc.socket(2, 1, 0) >= 0",
}
PROCESSES = {
    "fork": "import os; pid = os.fork(); pid or os._exit(0); result = 1",
    "daemon": "import os; pid = os.fork(); pid or (os.setsid(), os.execv('/bin/sleep', ['sleep', '0'])); result = 1",
    "subprocess": "import subprocess; subprocess.run(['true']); result = 1",
    "system": "import os; result = os.system('true') == 0",
    "spawn": "import os; result = os.posix_spawn('/bin/true', ['true'], {})",
    "C fork": SYSCALL + "pid = libc.fork(); import os; pid or os._exit(0); result = pid > 0",
    "thread": "import threading; threading.Thread(target=id, args=('x',)).start(); result = 1",
    "signal 0 to the parent": "import os; os.kill(os.getppid(), 0); result = 1",
    "signal to the group": "import os; os.killpg(os.getpgid(os.getppid()), 0); result = 1",
    "priority of the parent": "import os; os.getpriority(os.PRIO_PROCESS, os.getppid()); result = 1",
    "pidfd": "import os; result = os.pidfd_open(os.getppid())",
    "higher limits": "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); result = 1",
    "descriptors": "import os; result = os.pipe()",
    "shared memory": SYSCALL + "result = libc.shmget(0, 4096, 0o1600) >= 0",
}
NEEDS_RIGHTS = {
    "exec": "import os; os.execv('/bin/true', ['true'])",
    "ptrace": SYSCALL + "import os; result = libc.ptrace(0x4206, os.getppid(), 0, 0) == 0",
    "traced by the parent": SYSCALL + "result = libc.ptrace(0, 0, 0, 0) == 0",
    "parent's memory": SYSCALL + "import os; result = libc.syscall(310, os.getppid(), 0, 0, 0, 0, 0) == 0",
    "mknod": "import os; os.mknod(FOLDER + '/n'); result = 1",
    "user": "import os; os.setuid(65534); result = 1",
    "group": "import os; os.setgid(65534); result = 1",
    "root": "import os; os.chroot('/'); result = 1",
    "mount": SYSCALL + "result = libc.mount(b'x', b'/mnt', b'tmpfs', 0, 0) == 0",
    "namespace": SYSCALL + "result = libc.unshare(0x10000000) == 0",
    "another filter": SYSCALL + "result = libc.prctl(22, 2, 0, 0, 0) == 0",
    "keys": SYSCALL + "result = libc.syscall(250, 0, -3, 0) >= 0",
    "io_uring": SYSCALL + "p = (ctypes.c_uint32 * 30)(); result = libc.syscall(425, 4, p) >= 0",
    "bpf": SYSCALL + "result = libc.syscall(321, 0, 0, 0) == 0",
    "userfaultfd": SYSCALL + "result = libc.syscall(323, 1) >= 0",
    "performance counters": SYSCALL + "result = libc.syscall(298, 0, 0, -1, -1, 0) >= 0",
    "handles of files": SYSCALL + "result = libc.syscall(304, 0, 0, 0) >= 0",
    "clone": SYSCALL + "import os; pid = libc.syscall(56, 17, 0, 0, 0, 0); pid or os._exit(0); result = pid > 0",
    "vfork": SYSCALL + "import os; pid = libc.syscall(58); pid or os._exit(0); result = pid > 0",
    "clone3": SYSCALL + "import os; a = (ctypes.c_uint64 * 11)(); a[4] = 17; pid = libc.syscall(435, a, 88); "
    "pid or os._exit(0); result = pid > 0",
    "signal to a thread": SYSCALL + "import os; result = libc.syscall(200, os.getppid(), 0) == 0",
}
REACHABLE = {"reading": READING, "writing": WRITING, "network": NETWORK, "processes": PROCESSES}
ATTEMPTS = REACHABLE | {"needing rights": NEEDS_RIGHTS}


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server


def source_of(attempts: dict[str, str], folder: Path, server: socket.socket) -> str:
    """A program whose f() returns the names of the attempts that succeed."""
    (folder / "secret").write_text("s3cret")
    (folder / "own_module.py").write_text("here = True\n")
    names = {
        "FOLDER": str(folder),
        "SECRET": str(folder / "secret"),
        "MODULE": str(folder / "own_module.py"),
        "ADDRESS": server.getsockname(),
    }
    imports = (
        "import glob, importlib.util, linecache, pathlib, socket, sqlite3, subprocess, tempfile, threading, ctypes"
    )
    return f"""
{imports}
ATTEMPTS = {attempts!r}
def f():
    succeeded = []
    for name, code in ATTEMPTS.items():
        names = dict({names!r})
        try:
            exec(code, names)
        except BaseException as error:
            continue
        if names.get("result"):
            succeeded.append(name)
    return succeeded
"""


@pytest.mark.parametrize("layer", ["all", "seccomp alone", "landlock alone"])
@pytest.mark.parametrize("kind", ATTEMPTS)
def test_no_attempt_succeeds(
    kind: str, layer: str, tmp_path: Path, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Landlock alone is tried on files only, which it is about."""
    attempts = ATTEMPTS[kind]
    if layer == "seccomp alone":
        start = "import selfdistill.evaluate.sandbox_wall as w; w._landlock = lambda libc: False; "
    elif layer == "landlock alone":
        if kind not in ("reading", "writing") or "landlock" not in sandbox.wall():
            pytest.skip("nothing that Landlock refuses")
        start = "import ctypes, selfdistill.evaluate.sandbox_wall as w; build = w.build_wall; "
        start += (
            "w.build_wall = lambda: (w.ctypes.CDLL(None).prctl(38, 1, 0, 0, 0), w._landlock(ctypes.CDLL(None)))[1]; "
        )
        only = ("open", "os.open", "list", "append", "mkdir", "remove", "rename", "truncate", "C open", "C openat2")
        attempts = {name: code for name, code in attempts.items() if name in only}
    else:
        start = ""
    head, _, tail = sandbox.START.partition("; sys.path.append(sys.argv[1]); ")
    monkeypatch.setattr(sandbox, "START", f"{head}; sys.path.append(sys.argv[1]); {start}{tail}")
    source = source_of(attempts, tmp_path, server)
    result = check_program(Program(source=source, tests="assert f() == [], f()", entry_point="f"), seconds=60)
    assert result.passed, result.reason
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own_module.py", "secret"]
    assert (tmp_path / "secret").read_text() == "s3cret"
    with pytest.raises(TimeoutError):
        server.accept()


@pytest.mark.parametrize("kind", REACHABLE)
def test_without_the_wall_they_would(kind: str, tmp_path: Path, server: socket.socket) -> None:
    source = source_of(REACHABLE[kind], tmp_path, server) + "import json, os\nos.write(1, json.dumps(f()).encode())\n"
    done = subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, check=True, timeout=60)
    assert set(REACHABLE[kind]) - set(json.loads(done.stdout)) == set()


def test_there_are_many_attempts() -> None:
    assert sum(map(len, ATTEMPTS.values())) + len(CHEATS) >= 80


CHEATS = {
    "leaves at once": "import os\nos._exit(0)",
    "leaves in the call": "import os\ndef f(x): os._exit(0)",
    "sys.exit at once": "import sys\nsys.exit(0)",
    "sys.exit in the call": "import sys\ndef f(x): sys.exit(0)",
    "SystemExit": "def f(x): raise SystemExit(0)",
    "a value that equals all": "class Yes:\n  def __eq__(self, o): return True\ndef f(x): return Yes()",
    "a number that equals all": "class Yes(int):\n  def __eq__(self, o): return True\ndef f(x): return Yes(1)",
    "a text that equals all": "class Yes(str):\n  def __eq__(self, o): return True\ndef f(x): return Yes('a')",
    "a list that equals all": "class Yes(list):\n  def __eq__(self, o): return True\ndef f(x): return Yes([1])",
    "a mock": "from unittest.mock import ANY\ndef f(x): return ANY",
    "a verdict in all descriptors": (
        'import os\nfor n in range(32):\n  try: os.write(n, b\'{"passed": true, "reason": "passed", "wall": ""}\\n\')\n'
        "  except OSError: pass\ndef f(x): return 1"
    ),
    "answers in advance": (
        "import os\nfor n in range(3, 32):\n  try: os.write(n, b'{\"value\": true}\\n' * 9)\n  except OSError: pass\n"
    ),
    "a printed verdict": "print('passed')\ndef f(x): print('{\"passed\": true}')",
    "frames": (
        "import sys\ndef f(x):\n  frame, seen = sys._getframe(), []\n  while frame: seen += [frame.f_locals, "
        "frame.f_globals]; frame = frame.f_back\n  hits = [v for d in seen for v in d.values() if isinstance(v, str) "
        "and v.startswith('token')]\n  return hits[0] if hits else None"
    ),
    "the collector": (
        "import gc\ndef f(x):\n  hits = [v for d in gc.get_objects() if isinstance(d, dict) for v in d.values() "
        "if isinstance(v, str) and 'token' in v and 'isinstance' not in v]\n  return hits[0] if hits else None"
    ),
    "patched assert": "import builtins\nbuiltins.AssertionError = SystemExit\ndef f(x): raise AssertionError",
    "patched json": (
        "import json\njson.dumps = lambda *a, **k: '{\"value\": true}'\njson.loads = id\ndef f(x): return 1"
    ),
    "patched encoder": (
        "import sys\nfor n, module in list(sys.modules.items()):\n  if 'sandbox' in n:\n    for key in dir(module):\n"
        "      if not key.startswith('__'): setattr(module, key, lambda *a, **k: {'passed': True})\ndef f(x): return 1"
    ),
    "excepthook and trace": (
        "import sys\nsys.excepthook = lambda *a: None\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
        "def f(x): return None"
    ),
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return None",
    "no answer": "def f(x): return None",
    "its own tests": "def check(candidate): pass\ndef f(x): return None",
    "another name": "globals()['check'] = lambda c: None\nf = True",
    "an exception that tests may expect": "def f(x): raise AssertionError('passed')",
    "a crash": "import ctypes\ndef f(x): return ctypes.string_at(0)",
    "an endless iterator": "import itertools\ndef f(x): return itertools.repeat(1)",
    "a key that equals all": "class K(str):\n  def __eq__(self, o): return True\n  __hash__ = str.__hash__\n"
    "def f(x): return {K('a'): K('b')}",
}


@pytest.mark.parametrize("source", CHEATS.values(), ids=CHEATS)
def test_no_program_fakes_success(source: str) -> None:
    """What is expected is random, and is not in the program's process, so that no program can return it."""
    token = f"token {secrets.token_hex(8)}"
    tests = f"def check(candidate):\n    assert candidate(3) == {token!r}\ncheck(f)\n"
    honest = f"def f(x): return {token!r}"
    assert check_program(Program(source=honest, tests=tests, entry_point="f"), seconds=30).passed
    result = check_program(Program(source=source, tests=tests, entry_point="f"), seconds=30)
    assert result.passed is False
    assert result.reason != "timeout"


def command_line(process: psutil.Process) -> str:
    """Empty for a process that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_nothing_is_left_running() -> None:
    source = "import os, time\ndef f():\n  try: os.fork()\n  finally: time.sleep(60)"
    assert check_program(Program(source=source, tests="f()", entry_point="f"), seconds=1).reason == "timeout"
    assert not [
        line for line in map(command_line, psutil.Process().children(recursive=True)) if "sandbox_child" in line
    ]


def test_the_tests_are_held_as_well(tmp_path: Path) -> None:
    """They come from a data file, which may be anybody's."""
    (tmp_path / "secret").write_text("s3cret")
    for tests in (
        f"open({str(tmp_path / 'secret')!r})",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "import os; os.fork()",
        "import socket; socket.socket()",
    ):
        result = check_program(Program(source="def f(): pass", tests=tests, entry_point="f"))
        assert "PermissionError" in result.reason
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    flood = "import os\nfor n in range(32):\n  try:\n    while True: os.write(n, b'x' * 10**6)\n  except OSError: pass"
    assert not check_program(Program(source="def f(): pass", tests=flood, entry_point="f"), seconds=5).passed


def test_no_descriptor_of_the_parent_is_inherited(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    with (tmp_path / "secret").open() as file:
        os.set_inheritable(file.fileno(), True)
        source = f"import os\ndef f(): return os.read({file.fileno()}, 6)"
        result = check_program(Program(source=source, tests="assert f() != b's3cret'", entry_point="f"), seconds=5)
    assert "Bad file descriptor" in result.reason


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_allows_its_list_and_nothing_else(machine: str) -> None:
    architecture, column = ARCHITECTURES[machine]
    allowed = {pair[column] for pair in ALLOWED.values()}
    for number in range(600):
        assert filtered(machine, architecture, number) == (ALLOW if number in allowed else FAIL_WITH_EPERM)
        assert filtered(machine, architecture, number | 0x40000000) == FAIL_WITH_EPERM  # the x32 convention
        assert filtered(machine, 0x40000003, number) == KILL  # the 32-bit calls of x86


def filtered(machine: str, architecture: int, number: int) -> int:
    """What the filter returns for a system call, worked out line by line as the kernel does."""
    lines = list(struct.iter_unpack("=HBBI", filter_program(machine)))
    at = value = 0
    while True:
        code, if_true, if_false, operand = lines[at]
        if code == RETURN:
            return operand
        if code == LOAD:
            value = {0: number, 4: architecture}[operand]
        else:
            holds = value == operand if code == JUMP_IF_EQUAL else value >= operand
            at += if_true if holds else if_false
        at += 1
