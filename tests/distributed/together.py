"""Starts the processes of a test and waits for them."""

from pathlib import Path

from benchmarks.processes import start

ROOT = Path(__file__).parents[2]
CLOSE = 2e-6
"""Difference of a weight of about 1 to 10 after three steps: numbers are added in another order."""


def work(program: str, folder: Path, size: int, *what: str) -> None:
    """Runs ``tests.distributed.PROGRAM FOLDER WHAT ...`` in several processes, each of which must succeed."""
    codes, printed = start(size, ["-m", f"tests.distributed.{program}", str(folder), *what], 120, ROOT)
    assert codes == [0] * size, "\n".join(printed)[-6000:]
