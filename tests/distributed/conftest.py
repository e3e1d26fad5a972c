"""What several processes left, which every test of them looks at."""

from pathlib import Path

import pytest

from tests.distributed.together import work
from tests.support.served_teacher import WIDE, teaching
from tests.support.training import student

REPLICAS = ("equivalence", "exchanges", "unbroken", "stopped", "resumed", "other_rows")
SPLIT = ("equivalence", "exchanged", "halves", "saved", "unbroken", "resumed", "taught")


@pytest.fixture(scope="session")
def left_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders ``worker`` and ``split`` of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    for name in ("worker", "split"):
        (folder / name).mkdir()
    with teaching(student(**WIDE)) as server:
        (folder / "split" / "url").write_text(server.url)
        work(folder, 2, *(f"worker.{what}" for what in REPLICAS), *(f"split.{what}" for what in SPLIT))
        (folder / "split" / "asked").write_text(str(len(server.asked)))
    return folder


@pytest.fixture(scope="session")
def left_by_three(left_by_two: Path) -> Path:
    """The same folders after three processes, which went on with the runs that two had begun."""
    both = ("equivalence", "resumed")
    work(left_by_two, 3, *(f"{module}.{what}" for module in ("worker", "split") for what in both))
    return left_by_two


@pytest.fixture
def two(left_by_two: Path, request: pytest.FixtureRequest) -> Path:
    """What two processes left for the module's tests."""
    return left_by_two / request.module.LEFT


@pytest.fixture
def three(left_by_three: Path, request: pytest.FixtureRequest) -> Path:
    """What three processes left for them, which went on with the run that two had begun."""
    return left_by_three / request.module.LEFT
