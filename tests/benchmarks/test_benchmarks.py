"""The parts of the benchmarks that need no measuring."""

import ast
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

import pytest
from transformers import PreTrainedModel

import benchmarks
from benchmarks.common import BEGIN, END, put
from benchmarks.flops import Shape, sequence_flops, step_flops
from benchmarks.growth import judge
from benchmarks.page import BENCHMARKS, render
from benchmarks.rollout import spread
from benchmarks.start import write_rows

FOLDER = Path(next(iter(benchmarks.__path__)))
FILES = sorted(FOLDER.rglob("*.py"))
SHAPE = Shape(layers=2, hidden=4, inner=6, heads=2, kv_heads=1, head_dim=3, vocabulary=10)
MACHINE = {
    "cpu": "Some CPU",
    "bf16_unit": "amx_bf16",
    "cores": 2,
    "memory_gib": 24.0,
    "versions": {"torch": "2.13.0"},
    "date": "2026-01-02",
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_every_benchmark_imports_what_there_is(file: Path) -> None:
    importlib.import_module(".".join(("benchmarks", *file.relative_to(FOLDER).with_suffix("").parts)))
    for node in ast.walk(ast.parse(file.read_text())):  # imports inside functions, too
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selfdistill"):
            module = importlib.import_module(str(node.module))
            for name in (each.name for each in node.names):
                assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}"), (node.module, name)


def test_every_benchmark_of_the_page_names_its_command_and_machine() -> None:
    for file in (file for file in FILES if file.stem in BENCHMARKS):
        calls = {node.func.id for node in ast.walk(ast.parse(file.read_text())) if _is_call_of_a_name(node)}
        assert "finish" in calls, file.stem


def _is_call_of_a_name(node: ast.AST) -> TypeGuard[Any]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_rows_of_the_start_differ_and_are_the_same_each_time(tmp_path: Path) -> None:
    write_rows(tmp_path / "a", 50)
    write_rows(tmp_path / "b", 50)
    lines = (tmp_path / "a").read_text().splitlines()
    assert lines == (tmp_path / "b").read_text().splitlines()
    assert len(set(lines)) == 50


def test_weights_are_those_of_the_matrices() -> None:
    # q and o are 4 x 6 each, k and v 4 x 3 each; gate, up and down 4 x 6 each
    assert SHAPE.body_weights == 2 * (24 + 24 + 12 + 12 + 3 * 24)
    assert SHAPE.head_weights == 40


def test_a_sequence_attends_to_what_it_sees() -> None:
    # 3 tokens see 1 + 2 + 3 positions; a score and its use are 2 products of width 3 in each of 2 heads and layers
    assert sequence_flops(SHAPE, 3) == 2 * 288 * 3 + 2 * 2 * (2 * 2 * 3) * 6


def test_a_step_is_four_passes_of_the_student_and_one_of_the_teacher() -> None:
    # the completion's second token is predicted but not read: 3 + 1 and 5 + 1 tokens
    student, teacher = sequence_flops(SHAPE, 4), sequence_flops(SHAPE, 6)
    head = 2 * 40 * 2  # two predicted tokens
    # sampling 1, student forward 1, backward 2
    assert step_flops(SHAPE, [3], [5], [2]) == 4 * (student + head) + teacher + head
    assert step_flops(SHAPE, [3, 3], [5, 5], [2, 2]) == 2 * step_flops(SHAPE, [3], [5], [2])


def test_shape_of_a_config_without_head_dim(tiny_model: Callable[..., PreTrainedModel]) -> None:
    shape = Shape.of(tiny_model().config)
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (2, 16, 2, 1, 8)
    matrices = sum(w.numel() for name, w in tiny_model().named_parameters() if w.dim() == 2 and "layers" in name)
    assert shape.body_weights == matrices


def test_spread_takes_each_place_once_and_reaches_both_ends() -> None:
    lengths = [5, 5, 42, 80, 17]
    assert spread(lengths, 3) == [0, 2, 3]
    assert sorted(spread(lengths, 5)) == [0, 1, 2, 3, 4]


def test_growth_is_judged_by_the_spread_of_cost() -> None:
    measured = {
        8: {"seconds": 1.0, "tokens": 1000, "flops": 1e12},
        16: {"seconds": 3.0, "tokens": 2000, "flops": 2e12},
    }
    batch = judge("batch", measured, flat=1.4)
    assert batch == {"ms_per_token": {"8": 1.0, "16": 1.5}, "spread": 1.5, "growth": 1.5, "flat": False}
    layers = judge("layers", measured, flat=1.5)
    assert layers["s_per_tflop"] == {"8": 1.0, "16": 1.5}
    assert layers["flat"] is True


def test_page_replaces_what_is_between_the_markers_and_nothing_else() -> None:
    page = f"# Head\n\n{BEGIN}\nold\n{END}\n\nProse.\n"
    once = put(page, "new")
    assert once == f"# Head\n\n{BEGIN}\nnew\n{END}\n\nProse.\n"
    assert put(once, "new") == once


def test_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="once each"):
        put(f"{BEGIN}\n", "new")


def test_table_shows_figures_with_command_machine_and_date() -> None:
    case = {
        "vocabulary": 151_936,
        "tokens": 4096,
        "trl": {"seconds": 9.0, "extra_mb": 1500.0},
        "ours": {"seconds": 2.5, "extra_mb": 321.0},
    }
    loss = {"memory_ratio": 0.031, "time_ratio": 0.5, "cases": [case], "command": "loss.py --quick", "machine": MACHINE}
    scored = {"rows": 9, "batched_s": 2.0, "one_at_a_time_s": 8.0, "speedup": 4.0, "same_answers": 9}
    assert render({"evaluation": scored, "loss": loss}).splitlines() == [
        "| from `benchmarks/` | measured | figure | aim |",
        "|---|---|---|---|",
        "| `loss.py --quick` | extra memory, ours / dense, at 151,936 x 4,096 | 3.1% | at most 5% |",
        "| `loss.py --quick` | seconds, ours / dense, there | 0.50 | at most 1 |",
        "| `loss.py --quick` | vocabulary 151,936, 4,096 tokens "
        "| dense left out, trl 9.00 s 1,500 MB, ours 2.50 s 321 MB |  |",
        "| `evaluation.py` | scoring 9 rows, batched against one at a time | 2.0 s against 8.0 s: ratio 4.00 |  |",
        "| `evaluation.py` | answers that are the same | 9 of 9 | all |",
        "",
        "loss: Some CPU, 2 cores, amx_bf16, 24.0 GiB; torch 2.13.0; 2026-01-02.",
    ]
