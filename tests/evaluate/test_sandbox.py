"""Programs are held to their tests, and stopped when they take too much."""

import sys
import time
from fractions import Fraction
from typing import Any

import pytest

from selfdistill.evaluate import sandbox
from selfdistill.evaluate.sandbox import NOTHING, ProgramResult, ProgramScorer, check_program, wall_facts, with_sandbox
from selfdistill.evaluate.sandbox_values import Other, decoded, encoded
from selfdistill.tasks.humaneval import TASK
from selfdistill.tasks.task import Program
from selfdistill.types import Example
from tests.support.mistakes import mistake
from tests.support.toy_task import toy_task

linux = pytest.mark.skipif(sys.platform != "linux", reason="the wall is Linux's")
WITHOUT = "import platform; platform.machine = lambda: 'another'; "
"""What makes a process meet a machine for which there is no wall."""


def checked(source: str, tests: str, **limits: Any) -> ProgramResult:
    return check_program(Program(source=source, tests=tests, entry_point="f"), **limits)


@linux
def test_a_right_program_passes_and_a_wrong_one_fails() -> None:
    right = checked("def f(a, b=1): return a + b", "assert f(1) == 2\nassert f(1, b=3) == 4")
    assert right.passed
    assert right.wall in ("seccomp + landlock", "seccomp")
    assert checked("def f(a): return a", "assert f(1) == 2, 'sums'").reason == "AssertionError: sums"


@linux
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(a): return (", "SyntaxError: '(' was never closed (completion, line 1)"),
        ("def f(a): return 1 / a", "ZeroDivisionError: division by zero"),
        ("def g(): pass", "NameError: name 'f' is not defined"),
        ("raise ValueError('at once')", "ValueError: at once"),
        ("class Own(Exception): pass\ndef f(a): raise Own('mine')", "RuntimeError: Own: mine"),
    ],
)
def test_the_reason_is_the_error(source: str, reason: str) -> None:
    result = checked(source, "assert f(0) == 1")
    assert (result.passed, result.reason) == (False, reason)


@linux
def test_tests_may_expect_an_error() -> None:
    tests = "try: f()\nexcept ValueError as error: assert str(error) == 'no'\nelse: assert False"
    assert checked("def f(): raise ValueError('no')", tests).passed
    assert not checked("def f(): raise KeyError('no')", tests).passed


@linux
def test_tests_may_use_what_the_setup_defines() -> None:
    program = Program(
        source="def twice(x): return 0\ndef f(x): return x + x",
        setup="def twice(x): return 2 * x\ndef f(x):\n    pass\n",
        tests="assert twice(3) == 6 and f(3) == twice(3)",
        entry_point="f",
    )
    assert check_program(program).passed


@linux
@pytest.mark.parametrize(("setup", "tests"), [("def f(:", "f()"), ("", "assert f( =="), ("raise OSError", "f()")])
def test_a_program_with_broken_tests_is_unscored(setup: str, tests: str) -> None:
    program = Program(source="def f(): pass", setup=setup, tests=tests, entry_point="f")
    result = check_program(program)
    assert result.passed is None
    assert result.reason.startswith("the tests don't run")
    scorer = ProgramScorer(lambda completion, example: program)
    assert scorer("", Example(id="1", prompt=())) is None


@linux
@pytest.mark.parametrize(
    "code",
    [
        "import math, re, collections, os.path\nassert math.gcd(12, 18) == 6",
        "import datetime\nassert datetime.datetime.strptime('2001-02-03', '%Y-%m-%d').day == 3",
        "from collections import Counter, deque; from typing import List\nassert Counter('aab')['a'] == 2",
        "from xml.etree import ElementTree\nassert ElementTree.fromstring('<a>b</a>').text == 'b'",
        "import bisect, sched as s\nassert s.scheduler",
        "import decimal, hashlib, random, itertools\nassert hashlib.md5(b'a').hexdigest()[0] == '0'",
        "assert 'ä'.encode('latin-1') == b'\\xe4'",
        "import time\ntime.sleep(0.01)\nprint('x' * 100_000)",
    ],
)
def test_the_standard_library_is_there(code: str) -> None:
    result = checked(f"def f():\n    return 1\n{code}", "assert f() == 1")
    assert result.passed, result.reason


@linux
def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    source = "import os\ndef f(): return sorted(set(os.environ) - {'LC_CTYPE'})"
    assert checked(source, "assert f() == [], f()") == ProgramResult(passed=True, reason="passed", wall=sandbox.wall())


LIMITS = {
    "an endless loop": "while True: pass",
    "a sleep that swallows exceptions": (
        "import time\n  while True:\n    try: time.sleep(100)\n    except BaseException: pass"
    ),
    "signals ignored": (
        "import signal\n  for n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n  while True: pass"
    ),
    "a slow regular expression": "import re\n  re.match('(a+)+$', 'a' * 50 + 'b')",
    "a big power": "9 ** 9 ** 9",
    "an endless print": "while True: print('x' * 10**6)",
}


@linux
@pytest.mark.parametrize("body", LIMITS.values(), ids=LIMITS)
def test_what_has_no_end_is_killed(body: str) -> None:
    started = time.monotonic()
    assert checked(f"def f():\n  {body}", "f()", seconds=1).passed is False
    assert time.monotonic() - started < 20


@linux
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return [bytearray(10**8) for _ in range(100)]", "MemoryError"),
        ("return f() + f()", "RecursionError: maximum recursion depth exceeded"),
        ("return 'x' * 10**8", "RuntimeError: the program's answer can't be read"),
        ("x = []\n  for _ in range(900): x = [x]\n  return x", "Error"),
        ("import itertools\n  return itertools.count()", "AssertionError"),
    ],
)
def test_too_much_is_an_error(body: str, reason: str) -> None:
    result = checked(f"def f():\n  {body}", "assert f() == 1")
    assert result.passed is False
    assert reason in result.reason


def test_plain_data_pass_as_they_are() -> None:
    values: list[Any] = [None, True, 0, -(10**30), 1.5, float("inf"), "ä\ud800", b"\x00", 1j, Fraction(1, 3)]
    values += [[1, (2, "3")], {"a": {1: 2.0}}, {(1, 2): {3, 4}}, frozenset({5}), []]
    for value in values:
        again = decoded(encoded(value))
        assert again == value
        assert type(again) is type(value)
    assert decoded(encoded(float("nan"))) != decoded(encoded(float("nan")))


def test_nothing_of_an_own_type_passes() -> None:
    class Yes(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Odd:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    assert type(decoded(encoded(Yes(3)))) is int
    odd = decoded(encoded(Odd()))
    assert isinstance(odd, Other)
    assert odd != 3
    assert odd != odd
    assert list(decoded(encoded(iter([1, 2])))) == [1, 2]
    with pytest.raises(TypeError, match="not iterable"):
        iter(odd)


@pytest.mark.parametrize("data", [["eval", "1"], ["int", "zz"], [], ["list"], 5, ["dict", [1]], {"value": 1}])
def test_a_forged_value_is_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, IndexError)):
        decoded(data)


def test_a_system_without_a_wall_is_refused_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "START", WITHOUT + sandbox.START)
    sandbox.wall.cache_clear()
    try:
        told = mistake(with_sandbox, TASK)
        assert "can't confine programs" in told
        assert "--allow_unconfined_code" in told
        task = with_sandbox(TASK, confined=False)
        assert wall_facts(task) == {"program_wall": NOTHING}
        row = {"prompt": "def double(x):\n", "test": "def check(c): assert c(3) == 6", "entry_point": "double"}
        example = Example(id="1", prompt=(), reference=row)
        assert task.scorers["pass@1"]("    return 2 * x", example) == 1.0
        assert task.scorers["pass@1"]("    return x", example) == 0.0
    finally:
        sandbox.wall.cache_clear()


@linux
def test_the_wall_is_told_in_the_results() -> None:
    assert wall_facts(with_sandbox(TASK)) == {"program_wall": sandbox.wall()}
    assert wall_facts(toy_task(scorers={})) == {}
