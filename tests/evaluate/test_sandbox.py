"""Programs that misbehave are stopped; harmless ones pass."""

import sys
import time
from pathlib import Path

import pytest

from selfdistill.evaluate.sandbox import run_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the sandbox needs POSIX limits")


def test_a_harmless_program_passes():
    assert run_python("import math, re, collections\nassert math.gcd(12, 18) == 6\nprint('x' * 100_000)").passed


def test_it_may_write_in_its_own_folder_and_read_it_back():
    assert run_python("open('a', 'w').write('hi')\nassert open('a').read() == 'hi'\nimport os; os.remove('a')").passed


def test_a_failed_assertion_fails():
    outcome = run_python("assert 1 + 1 == 3, 'sums'")
    assert not outcome.passed
    assert outcome.reason == "AssertionError: sums"


@pytest.mark.parametrize("code", ["import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit"])
def test_leaving_before_the_tests_is_no_pass(code: str):
    assert not run_python(f"{code}\nassert False").passed


def test_printing_what_a_pass_prints_is_no_pass():
    assert not run_python("import os\nos.write(1, b'passed')\nraise ValueError").passed


def test_an_endless_loop_is_killed():
    started = time.monotonic()
    assert run_python("while True: pass", seconds=1).reason == "timeout"
    assert time.monotonic() - started < 10


def test_an_endless_loop_that_swallows_exceptions_and_sleeps_is_killed():
    code = "import time\nwhile True:\n  try: time.sleep(100)\n  except BaseException: pass"
    assert run_python(code, seconds=1).reason == "timeout"


def test_a_memory_bomb_is_stopped():
    outcome = run_python("blocks = [bytearray(10**8) for _ in range(100)]")
    assert outcome.reason == "MemoryError"


def test_a_huge_file_is_stopped():
    assert "File too large" in run_python("open('a', 'wb').write(b'x' * 10**7)").reason


@pytest.mark.parametrize(
    "code",
    [
        "open({path!r}, 'w')",
        "open({path!r}, 'ab')",
        "import os; os.open({path!r}, os.O_WRONLY | os.O_CREAT)",
        "import pathlib; pathlib.Path({path!r}).write_text('x')",
        "import os; os.mkdir({path!r})",
        "import os; os.chdir('/'); open({path!r}, 'w')",
        "import os; os.symlink({parent!r}, 'link'); open('link/outside', 'w')",
    ],
)
def test_nothing_is_written_outside(code: str, tmp_path: Path):
    target = tmp_path / "outside"
    outcome = run_python(code.format(path=str(target), parent=str(tmp_path)))
    assert "PermissionError" in outcome.reason
    assert not target.exists()


def test_nothing_is_removed_or_renamed_outside(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    for code in (f"import os; os.remove({str(kept)!r})", f"import os; os.rename({str(kept)!r}, 'taken')"):
        assert "PermissionError" in run_python(code).reason
    assert kept.read_text() == "mine"


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import ctypes; ctypes.CDLL(None)",
        "import os; os.kill(os.getppid(), 9)",
    ],
)
def test_network_processes_and_native_code_are_refused(code: str):
    assert "not allowed here" in run_python(code).reason


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    assert run_python("import os\nassert 'SECRET_TOKEN' not in os.environ and 'HOME' not in os.environ").passed
