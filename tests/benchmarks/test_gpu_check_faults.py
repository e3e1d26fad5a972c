"""The check for GPUs finds what is wrong: each kind of fault makes its section wrong."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_check import right, runs
from gpu_check.models import Scripted
from gpu_check.report import Report
from selfdistill.method.divergence import chunked_divergence
from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.rollout.engines import ENGINES
from selfdistill.method.teacher import Teacher

Section = Callable[[Report], None]


def wrong_parts(section: Section, folder: Path) -> set[str]:
    """Names of the parts that a section finds wrong."""
    report = Report(folder, "section", 300.0, torch.device("cpu"), quick=True)
    section(report)
    found = report.end()
    assert found["errors"] == {}
    bad = {name for name, part in found["parts"].items() if not part["ok"]}
    assert found["status"] == ("wrong" if bad else "ok")
    return bad


@pytest.mark.parametrize("factor", [1.001, math.nan])
def test_a_divergence_that_is_a_little_off_or_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    def off(hidden: Any, *others: Any, **options: Any) -> Any:
        values = chunked_divergence(hidden, *others, **options)
        faulty = options["kind"] == "jsd" and hidden.dtype == torch.float32
        return values + (factor - 1) * values.detach() if faulty else values

    monkeypatch.setattr(right, "chunked_divergence", off)
    assert wrong_parts(right.divergences, tmp_path) == {f"jsd, {name}" for name in right.VARIANTS}


def test_a_step_with_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number, tiny_model = itertools.count(), runs.tiny_model

    def one_in_two_differs(*arguments: Any) -> Any:
        model: Any = tiny_model(*arguments)
        if next(number) % 2:
            model.lm_head.weight.data[100] *= 1.05
        return model

    monkeypatch.setattr(runs, "tiny_model", one_in_two_differs)
    monkeypatch.setattr(runs, "CASES", {name: runs.CASES[name] for name in ("method sdft", "method sft", "LoRA")})
    assert wrong_parts(runs.steps, tmp_path) == {"method sdft", "method sft", "LoRA"}


def test_a_teacher_that_moves_at_another_rate_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faster(masters: MasterWeights, kind: Any, rate: float, *others: Any, **options: Any) -> Teacher:
        return Teacher(masters, kind, rate * 1.01, *others, **options)

    monkeypatch.setattr(right, "Teacher", faster)
    assert wrong_parts(right.teachers, tmp_path) == {"ema, float32", "ema, bfloat16"}


def test_masters_without_their_lower_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MasterWeights, "value", lambda masters, name: masters.parameters[name].detach().float())
    assert wrong_parts(right.masters, tmp_path) == {"single", "foreach", "fused"}


def test_an_engine_that_writes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "own", lambda *arguments: Scripted())
    assert wrong_parts(right.sampling, tmp_path) == {
        "greedy, ours against generate",
        "same seed, same completions",  # of another seed, too
    }


def test_draws_that_ignore_the_random_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, number = right.sample, itertools.count()

    def other(logits: Any, sampling: Any, drawn: Any) -> Any:
        return sample(logits, sampling, drawn if next(number) % 2 else 1 - drawn)

    monkeypatch.setattr(right, "sample", other)
    assert wrong_parts(right.sampling, tmp_path) == {"draws on the device against the CPU"}


def test_a_resumed_run_without_its_masters_and_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MasterWeights, "load_state_dict", lambda masters, state: None)
    monkeypatch.setattr(Teacher, "load_state_dict", lambda teacher, state: None)
    assert wrong_parts(runs.resume, tmp_path) == {"fp32", "bf16 with masters"}


def test_without_faults_nothing_is_wrong(tmp_path: Path) -> None:
    for section in (right.divergences, right.teachers, right.masters, right.sampling, runs.resume):
        assert wrong_parts(section, tmp_path) == set()
