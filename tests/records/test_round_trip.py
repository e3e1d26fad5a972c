"""What is written of a record is read back as the same record, whichever record it is."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from selfdistill.records import evaluations, ledger, runs, studies
from selfdistill.run_folder import FORMAT, append_jsonl, read_record, read_records, write_json, write_jsonl
from tests.support.mistakes import mistake


def classes(*modules: ModuleType) -> Iterator[type]:
    """The records that a module defines."""
    for module in modules:
        for value in vars(module).values():
            if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__module__ == module.__name__:
                yield value


RECORDS = list(classes(evaluations, ledger, runs, studies))
WHOLE_FILES = [each for each in RECORDS if "format" in get_type_hints(each)]
"""Records that are a file, or a line of one."""


def filled(annotation: Any, *, bare: bool) -> Any:
    """A value of the type. ``bare``: None where it may be, and nothing in what may be empty."""
    inner = get_args(annotation)
    kind = get_origin(annotation) or annotation
    if kind in (Union, UnionType):
        return None if bare else filled(next(each for each in inner if each is not NoneType), bare=bare)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        own = {name: filled(hint, bare=bare) for name, hint in hints.items() if name != "format"}
        return kind(**own)
    if kind is Literal:
        return inner[-1]
    if kind is tuple:
        return tuple(filled(each, bare=bare) for each in inner if each is not ...)
    if kind is list:
        return [] if bare else [filled(inner[0], bare=bare)] * 2
    if kind is dict:
        return {} if bare else {"é 1": filled(inner[1], bare=bare)}
    return {str: "two\nlines", int: 7, float: 0.1, bool: True, Any: ["any", 1, None]}[kind]


@pytest.mark.parametrize("bare", [False, True], ids=["full", "bare"])
@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_what_is_written_is_read_back(tmp_path: Path, kind: type, bare: bool):
    record = filled(kind, bare=bare)
    write_json(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json", kind) == record
    write_jsonl(tmp_path / "records.jsonl", [record])
    append_jsonl(tmp_path / "records.jsonl", [record])
    assert read_records(tmp_path / "records.jsonl", kind) == [record, record]


def test_the_records_that_are_files_carry_a_version():
    assert {each.__name__ for each in WHOLE_FILES} == {
        *("EvalRecord", "SampleRecord", "DriftRecord", "DriftSample"),
        *("RunConfig", "RolloutRecord", "AnswerRecord", "RunState"),
        *("StudyRecord", "BaseRecord", "CellRecord", "StageRecord", "CompareRecord", "ContinualRecord"),
        *("Version", "LedgerRecord"),
    }


@pytest.mark.parametrize("kind", WHOLE_FILES, ids=lambda kind: kind.__name__)
def test_another_version_is_refused(tmp_path: Path, kind: type):
    path = tmp_path / "record.json"
    write_json(path, dataclasses.replace(filled(kind, bare=True), format=FORMAT + 1))
    said = mistake(read_record, path, kind)
    assert f"record.json can't be read (its format is {FORMAT + 1}, this program reads {FORMAT})" in said
    write_jsonl(tmp_path / "records.jsonl", [json.loads(path.read_text())])
    assert f"its format is {FORMAT + 1}" in mistake(read_records, tmp_path / "records.jsonl", kind)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ('{"tokens_seen": 1', "Expecting ',' delimiter"),
        ("[]", "RunState"),
        ('{"tokens_seen": 1}', "seconds: "),
        ('{"tokens_seen": "many", "seconds": 1.0}', "tokens_seen: Input should be a valid integer"),
    ],
)
def test_what_is_no_such_record_is_a_users_error(tmp_path: Path, text: str, said: str):
    path = tmp_path / "run_state.json"
    path.write_text(text)
    found = mistake(read_record, path, runs.RunState)
    assert found.startswith(f"{path} can't be read (")
    assert said in found
    assert found.endswith("Run the command that wrote it again.")


def test_a_file_that_is_not_there_and_one_that_is_no_text(tmp_path: Path):
    assert "there is no such file" in mistake(read_record, tmp_path / "none.json", runs.RunState, "Name another.")
    assert mistake(read_record, tmp_path / "none.json", runs.RunState, "Name another.").endswith(". Name another.")
    (tmp_path / "latin.json").write_bytes('{"é": 1}'.encode("latin-1"))
    assert "utf-8" in mistake(read_record, tmp_path / "latin.json", runs.RunState)


def test_a_bad_line_is_a_users_error_and_half_a_last_one_is_passed_over(tmp_path: Path):
    path = tmp_path / "states.jsonl"
    path.write_text('{"tokens_seen": 1, "seconds": 2.0}\n{"tokens_seen": 2, "sec')
    assert read_records(path, runs.RunState) == [runs.RunState(tokens_seen=1, seconds=2.0)]
    path.write_text('{"tokens_seen": 1, "sec\n{"tokens_seen": 2, "seconds": 2.0}\n')
    assert "states.jsonl can't be read" in mistake(read_records, path, runs.RunState)


def test_what_a_later_program_adds_is_passed_over(tmp_path: Path):
    write_json(tmp_path / "a.json", {"tokens_seen": 1, "seconds": 2.0, "joules": 3, "format": FORMAT})
    assert read_record(tmp_path / "a.json", runs.RunState) == runs.RunState(tokens_seen=1, seconds=2.0)
