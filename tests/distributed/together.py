"""Starts the processes of the tests once, two and then three, and is what they run:
``python -m tests.distributed.together FOLDER MODULE.WHAT ...``."""

import os
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.processes import start
from tests.support.no_waiting import is_open, leave_libraries_out

ROOT = Path(__file__).parents[2]
CLOSE = 2e-6
"""Difference of a weight of about 1 to 10 after three steps: numbers are added in another order."""


def work(folder: Path, size: int, *what: str) -> None:
    """Runs functions of ``worker`` and ``split``, such as ``split.saved``, one after another in several processes, each
    of which must succeed. What a module's functions leave is in the folder of its name."""
    codes, printed = start(size, ["-m", "tests.distributed.together", str(folder), *what], 240, ROOT)
    assert codes == [0] * size, "\n".join(printed)[-6000:]


if __name__ == "__main__":
    functions = [
        (getattr(import_module(f"tests.distributed.{module}"), function), Path(sys.argv[1], module))
        for module, _, function in (what.partition(".") for what in sys.argv[2:])
    ]
    os.fsync = is_open
    leave_libraries_out()
    for function, folder in functions:
        function(folder)
