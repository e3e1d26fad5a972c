"""docs/files.md names every record and every file."""

from pathlib import Path

import pytest

from selfdistill import run_folder
from tests.records.test_round_trip import WHOLE_FILES

PAGE = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
NOT_FOR_READERS = (".lock", ".staging")
"""Of a ledger while ``learn`` runs."""
FILES = {value for name, value in vars(run_folder).items() if name.isupper() and isinstance(value, str)}
FILES -= {run_folder.WRITE_AGAIN, *NOT_FOR_READERS}


@pytest.mark.parametrize("kind", WHOLE_FILES, ids=lambda kind: kind.__name__)
def test_every_record_is_named(kind: type):
    assert f"`{kind.__name__}`" in PAGE or f"`{kind.__name__}:" in PAGE


@pytest.mark.parametrize("file", sorted(FILES))
def test_every_file_is_named(file: str):
    assert file in PAGE
