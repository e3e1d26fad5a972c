"""docs/from_other_tools.md names every setting of TRL's configs, and nothing that is not there."""

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from selfdistill import SDFTConfig
from selfdistill.settings import flat
from selfdistill.settings.fields import check_fields
from selfdistill.settings.method import MethodConfig
from selfdistill.settings.train import TrainOptions

PAGE = Path(__file__).parents[2] / "docs" / "from_other_tools.md"
SECTIONS = {
    "TRL: `SDFTConfig`": "trl.experimental.sdft.SDFTConfig",
    "TRL: `GKDConfig`, besides what `SFTConfig` has": "trl.experimental.gkd.GKDConfig",
    "TRL: `SFTConfig`": "trl.SFTConfig",
}


def rows(section: str) -> list[list[str]]:
    """Cells of the table of a section."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def sections() -> list[str]:
    return re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def fields_of(path: str) -> set[str]:
    module, _, name = path.rpartition(".")
    found: Any = getattr(importlib.import_module(module), name)
    shared = {field.name for field in dataclasses.fields(TrainingArguments)}
    return {field.name for field in dataclasses.fields(found)} - shared


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_of_trl_is_in_its_table_once(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    pytest.importorskip("trl")
    expected = fields_of(SECTIONS[section])
    if "GKDConfig" in section:
        expected -= fields_of("trl.SFTConfig")
    named = [name for first, *_ in rows(section) for name in quoted(first)]
    assert sorted(named) == sorted(expected)


@pytest.mark.parametrize("section", sections())
def test_what_a_table_names_here_is_a_setting_and_its_value_is_allowed(section: str) -> None:
    settings = {*flat.leaves(TrainOptions), *(field.name for field in dataclasses.fields(SDFTConfig))}
    found = rows(section)
    assert found
    for _, here, remarks in found:
        assert quoted(here) or here == "*none*", here
        for text in [*quoted(here), *quoted(remarks)]:
            name, _, value = text.partition("=")
            if text in quoted(here) or value:
                assert name in settings or text.startswith("selfdistill export --to merged"), text
            if value and not value.replace(".", "").isdecimal():
                given: dict[str, Any] = {name: value}
                check_fields(MethodConfig(**given))
