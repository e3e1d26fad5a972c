"""Mutated and made-up inputs: each is loaded or ends in a UserError, soon.

``SELFDISTILL_FUZZ`` sets the number of inputs a test; short by default.
"""

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfdistill import run_folder
from selfdistill.data.readers import load_rows
from selfdistill.data.rows import examples_from_rows
from selfdistill.errors import UserError
from selfdistill.records.evaluations import EvalRecord, SampleRecord
from selfdistill.settings import flat
from selfdistill.settings.train import TrainOptions
from selfdistill.settings.yaml_files import options_from_file
from selfdistill.tasks.scorers import NAMED
from selfdistill.types import Example
from tests.support.clock import within
from tests.support.mistakes import refusal

Loaded = TypeVar("Loaded")
COUNT = int(os.environ.get("SELFDISTILL_FUZZ", "60"))
SHORT = settings(
    max_examples=COUNT,
    deadline=None,
    derandomize="SELFDISTILL_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXT = st.text(st.characters(codec=None), max_size=30)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
COLUMNS = st.sampled_from(
    ["prompt", "messages", "demonstration", "completion", "golden_response", "golden_answer", "privileged_context"]
)
TURN = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["system", "user", "assistant", "tool"]) | VALUE, "content": VALUE}
) | st.fixed_dictionaries({"role": st.just("assistant"), "tool_calls": VALUE})
ROW = st.dictionaries(COLUMNS | st.just("answer") | TEXT, VALUE | st.lists(TURN, max_size=4), max_size=4)
SEEDS = {
    "rows.jsonl": b'{"prompt": "What is \\u00e9?", "demonstration": "x", "answer": 1.5}\n{"messages": '
    b'[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
    "rows.json": b'[{"prompt": "a", "completion": "b", "answer": ["c", null, true]}]',
    "rows.csv": b'prompt,demonstration,answer\n"a, b","c ""d""",1\ne,f,2\n',
}
SETTINGS = b"learning_rate: 1e-5\nseed: 3\nadam_beta2: 0.95\nlora_target_modules: [q_proj]\nmodel_name: &m M\n"
RESULT = {
    "accuracy": 0.5, "interval": [0.1, 0.9], "num_correct": 1.0, "num_total": 2, "num_unscored": 0,
    "truncated_share": 0.0, "mean_completion_tokens": 3.0, "metrics": {}, "parts": {}, "mean_of_parts": None,
    "per_sample_scores": [1.0, 0.0], "format": run_folder.FORMAT,
    "config": {"task": "t", "revision": "1", "metric": "m", "num_rows": 2, "prompt": "chat"},
}  # fmt: skip
SAMPLE = {
    "id": "t/0", "part": "", "prompt": [{"role": "user", "content": "a"}], "reference": "b", "completion": "c",
    "scores": {"m": 1.0}, "num_tokens": 1, "finish_reason": "stop", "format": run_folder.FORMAT,
}  # fmt: skip


STUMBLES = [b"", b"\0", b"[" * 200, b'"', b"\xff", b"\xed\xa0\x80", b"NaN", b"9" * 5000, b"&a [*a]", b"- " * 50]
STUMBLES += [b"\\ud800", b"1e999", b"{}", b"\n", b"!!python/name:os.system"]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A few bytes flipped, left out, doubled, or replaced by what parsers stumble over."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        size = draw.randint(0, 8)
        new = draw.choice([bytes([draw.randrange(256)]), data[at : at + size] * 2, *STUMBLES])
        data = data[:at] + new + data[at + size :]
    return data


def outcome(act: Callable[[], Loaded]) -> Loaded | None:
    """What it loads; None for a UserError, which says something in at most 40 words. Any other error fails the test, as
    does more than 10 s."""
    loaded = None
    with within(10):
        try:
            loaded = act()
        except UserError as error:
            told = str(error)
            assert told.strip()
            assert len(told.split()) <= 40
    return loaded


def are_rows(examples: Sequence[Example] | None) -> bool:
    """Whether rows were refused, or each that was loaded has a prompt of turns that say something."""
    return examples is None or all(
        example.prompt and all(turn["role"] and "content" in turn for turn in example.prompt) for example in examples
    )


def read(path: Path) -> Sequence[Example]:
    rows, source = load_rows(str(path))
    examples = examples_from_rows(rows, source=source, prefix="x", need_demonstration=False)
    for example in examples:
        json.dumps([*example.prompt, *example.demonstration], default=str, ensure_ascii=False).encode()
    return examples


def is_typed(record: EvalRecord) -> bool:
    """Whether the numbers of a record that was loaded are numbers."""
    return isinstance(record.num_total, int) and isinstance(record.accuracy, float | int | None)


@SHORT
@given(row=ROW)
def test_rows(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert are_rows(outcome(lambda: read(tmp_path / "rows.jsonl")))


@SHORT
@given(name=st.sampled_from(sorted(SEEDS)), draw=st.randoms(use_true_random=False))
def test_files_of_rows(name: str, draw: random.Random, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(mutated(SEEDS[name], draw))
    assert are_rows(outcome(lambda: read(tmp_path / name)))


@SHORT
@given(data=st.binary(max_size=300), ending=st.sampled_from(["jsonl", "json", "csv", "parquet"]))
def test_bytes(data: bytes, ending: str, tmp_path: Path) -> None:
    (tmp_path / f"rows.{ending}").write_bytes(data)
    assert are_rows(outcome(lambda: read(tmp_path / f"rows.{ending}")))


@SHORT
@given(draw=st.randoms(use_true_random=False))
def test_parquet(draw: random.Random, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"prompt": ["a", "b"], "answer": [1.0, None], "demonstration": ["c", "d"]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    data = bytearray((tmp_path / "rows.parquet").read_bytes())
    for _ in range(draw.randint(1, 6)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    (tmp_path / "rows.parquet").write_bytes(data)
    assert are_rows(outcome(lambda: read(tmp_path / "rows.parquet")))


@SHORT
@given(draw=st.randoms(use_true_random=False))
def test_settings(draw: random.Random, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(mutated(SETTINGS, draw))
    found = outcome(lambda: options_from_file(TrainOptions, str(tmp_path / "c.yaml")))
    refused = found is None or refusal(found.check)
    assert refused or 0 <= flat.flatten(found)["learning_rate"] <= 1


@SHORT
@given(name=st.sampled_from(sorted(SEEDS)), draw=st.randoms(use_true_random=False))
def test_results(name: str, draw: random.Random, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(mutated(json.dumps(RESULT).encode(), draw))
    record = outcome(lambda: run_folder.read_record(tmp_path / "t.json", EvalRecord, "Put back a copy of it."))
    assert record is None or is_typed(record)
    (tmp_path / "t.samples.jsonl").write_bytes(mutated(json.dumps(SAMPLE).encode() + b"\n", draw))
    samples = outcome(lambda: list(run_folder.read_records(tmp_path / "t.samples.jsonl", SampleRecord)))
    assert samples is None or all(isinstance(sample, SampleRecord) for sample in samples)


@SHORT
@given(value=VALUE)
def test_records_of_other_types(value: Any, tmp_path: Path) -> None:
    for key in RESULT:
        (tmp_path / "t.json").write_text(json.dumps(RESULT | {key: value}))
        record = outcome(lambda: run_folder.read_record(tmp_path / "t.json", EvalRecord, "Put back a copy of it."))
        assert record is None or is_typed(record)


@pytest.mark.parametrize("name", sorted(NAMED))
@SHORT
@given(completion=st.text(max_size=200) | st.text("answer is:*_ (B)\\boxed{}<>/1.5e%,", max_size=200), value=VALUE)
def test_scorers(name: str, completion: str, value: Any) -> None:
    score = NAMED[name](completion, Example(id="x/0", prompt=(), reference=value))
    assert score is None or 0 <= score <= 1


def test_the_seeds_are_good(tmp_path: Path) -> None:
    """Otherwise their mutations would test nothing."""
    for name, data in SEEDS.items():
        (tmp_path / name).write_bytes(data)
        assert read(tmp_path / name)
    (tmp_path / "c.yaml").write_bytes(SETTINGS)
    assert flat.flatten(options_from_file(TrainOptions, str(tmp_path / "c.yaml")))["seed"] == 3
    (tmp_path / "t.json").write_text(json.dumps(RESULT))
    assert run_folder.read_record(tmp_path / "t.json", EvalRecord, "").accuracy == 0.5
    (tmp_path / "t.samples.jsonl").write_text(json.dumps(SAMPLE) + "\n")
    assert len(list(run_folder.read_records(tmp_path / "t.samples.jsonl", SampleRecord))) == 1
