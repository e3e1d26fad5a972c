"""Mutated inputs: the tests of ``test_fuzz``, with more of them and by our seed."""

import os
from typing import Any

from tests.faults.suite.home import Home, Result

INPUTS, QUICK_INPUTS = 20_000, 600
SIZE, QUICK_SIZE = 250, 40
"""Inputs of a case."""


def plan(home: Home, *, quick: bool) -> list[str]:
    """Names: ``TEST.ROUND.SIZE``, with ``SIZE`` inputs."""
    size, wanted = (QUICK_SIZE, QUICK_INPUTS) if quick else (SIZE, INPUTS)
    tests = list(_tests(size))
    return [f"{test}.{number}.{size}" for number in range(-(-wanted // (size * len(tests)))) for test in tests]


def run_case(home: Home, seed: int, name: str) -> Result:
    """Runs the case of a name."""
    import hypothesis

    test, number, size = name.split(".")
    function, arguments = _tests(int(size))[test]
    folder = home.folder / "trials" / f"fuzz-{name}"
    folder.mkdir()
    tried = 0
    inner = function.hypothesis.inner_test

    def counted(*positional: Any, **named: Any) -> None:
        nonlocal tried
        tried += 1
        inner(*positional, **named)

    function.hypothesis.inner_test = counted
    if "tmp_path" in inner.__code__.co_varnames:
        arguments = arguments | {"tmp_path": folder}
    result = Result()
    try:
        hypothesis.seed(f"{seed} {number}")(function)(**arguments)
    except Exception as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        result.wrong.append(f"{type(error).__name__}: {error} {notes}")
    finally:
        function.hypothesis.inner_test = inner
    result.counts["fuzz_inputs"] = tried
    return result


def _tests(size: int) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The tests of ``test_fuzz``, which reads their ``size`` when it is imported, and what each is called with."""
    os.environ["SELFDISTILL_FUZZ"] = str(size)
    from tests.faults import test_fuzz

    assert size == test_fuzz.COUNT
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name, function in vars(test_fuzz).items():
        if name == "test_scorers":
            found |= {f"{name}[{scorer}]": (function, {"name": scorer}) for scorer in sorted(test_fuzz.NAMED)}
        elif name.startswith("test_") and hasattr(function, "hypothesis"):
            found[name] = (function, {})
    return found
