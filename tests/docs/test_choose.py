"""The page that helps to choose a method says what docs/evidence.md says."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
TASKS = ("assistant-tools", "notes", "orders")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def chosen() -> dict[str, list[str]]:
    """The cells of each arm's row."""
    text = (DOCS / "choose.md").read_text(encoding="utf-8")
    table = text.partition("evidence.md: begin -->\n")[2].partition("<!--")[0]
    header, _, *rows = table.splitlines()
    assert re.findall(r"`([^`]+)`", header) == list(TASKS)
    return {name: numbers for name, *numbers in map(cells, rows)}


def measured(task: str) -> dict[str, dict[str, str]]:
    """By arm and column, the first table of a comparison in the evidence."""
    text = (DOCS / "evidence.md").read_text(encoding="utf-8").partition(f"\n### compare-{task}\n")[2]
    header, _, *rows = text[text.index("\n| arm |") + 1 :].partition("\n\n")[0].splitlines()
    return {cells(row)[0]: dict(zip(cells(header), cells(row), strict=True)) for row in rows}


def test_its_numbers_are_those_of_the_evidence() -> None:
    arms = chosen()
    assert set(arms) == set(measured("notes"))
    for name, numbers in arms.items():
        for at, task in enumerate(TASKS):
            row = measured(task).get(name, {"accuracy %": "", "KL per token": ""})  # not every arm is in every study
            assert numbers[2 * at : 2 * at + 2] == [row["accuracy %"], row["KL per token"]], (name, task)
