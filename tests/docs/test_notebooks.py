"""The notebooks run from the first cell to the last, on a tiny model, with the package's rows and with a person's own,
and are committed as nobody has run them."""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.documented import ROOT
from tests.support.tiny_home import TinyHome

SMALL: dict[str, Any] = {
    "MODEL": "M",
    "DATA": None,
    "HELD_OUT": 0.25,
    "ROWS": 3,
    "GENERAL": 2,
    "COMPLETION": 200,
    "FOLDER": "run",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "one_skill": SMALL | {"STEPS": 2},
    "two_methods": SMALL | {"STEPS": 3, "SEEDS": "0"},
}
"""By notebook, the values of the cell tagged ``parameters``."""
PRINTED = {
    "one_skill": (r"right after:  \d+% \[\d+%, \d+%\]", r"drift \d\.\d{3} nats per token, leak \d+%"),
    "two_methods": (r"sdft +0 +3 +\d+% +\d+\.\d{3}", r"Does self-distillation keep more at the same skill\? \w+"),
}
MADE = {"one_skill": {"model.safetensors", "tokenizer.json"}, "two_methods": {"compare.json", "report.html"}}
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize(
    ("path", "data"),
    [(path, data) for path in NOTEBOOKS for data in (None, "own.jsonl") if data or path.stem == "one_skill"],
    ids=lambda value: getattr(value, "stem", str(value)),
)
def test_a_notebook_runs(path: Path, data: str | None, home: TinyHome) -> None:
    book: Any = nbformat.read(path, as_version=4)
    [settings] = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ())]
    values = SETTINGS[path.stem] | {"DATA": data}
    home.rows(*({"question": f"What is {n}+1?", "answer": str(n + 1)} for n in range(40)), name="own.jsonl")
    assert set(re.findall(r"^(\w+) = ", settings.source, re.MULTILINE)) == set(values)
    settings.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    (home.folder / "home").mkdir()  # the kernel writes there
    where = {"metadata": {"path": str(home.folder)}}
    NotebookClient(book, timeout=120, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    for pattern in PRINTED[path.stem]:
        assert re.search(pattern, text), (pattern, text)
    made = {file.name for file in (home.folder / "run").iterdir()}
    assert MADE[path.stem] <= made


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_results(path: Path) -> None:
    book = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(nbformat.read(path, as_version=4))
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
