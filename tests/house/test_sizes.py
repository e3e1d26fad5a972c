"""Files and functions stay short, and every module lies in a room."""

import ast
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "selfdistill"
FILES = [
    path
    for folder in ("src", "tests", "benchmarks", "docs", "evidence", "examples")
    for path in (ROOT / folder).rglob("*.py")
]
AT_THE_DOOR = {
    *("__init__", "__main__", "cli", "errors", "launcher", "page_server", "progress", "run_folder", "signals", "types"),
}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_its_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MOST_LINES_OF_A_FUNCTION, node.name


def test_most_files_of_the_package_are_much_shorter() -> None:
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")]
    assert median(lengths) < 120


def test_no_module_lies_outside_a_room() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == AT_THE_DOOR
