"""``--profile``: the trace of a tiny run."""

import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill.method.profile_trace import TRACE, ProfileTrace
from tests.support.engines import Scripted
from tests.support.training import make_trainer, script

PHASES = {"rollout", "teacher", "student", "divergence", "backward", "teacher_update"}


def traced_run(folder: Path, steps: int) -> tuple[Counter[str], str]:
    """Trains for so many steps; how often the trace has each of our phases, and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "num_train_epochs": 9}
    options = {"callbacks": [ProfileTrace(folder, console)]}
    make_trainer(folder, engine=Scripted(script()), max_steps=steps, options=options, **sizes).train()
    assert [path.name for path in folder.glob(".*")] == [".lock"]
    with gzip.open(folder / TRACE, "rt") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    ours = [event for event in events if str(event.get("name")).startswith("phase/")]
    ranges = [event for event in ours if event.get("cat") == "user_annotation"]
    assert all(event["dur"] > 0 for event in ranges)
    assert any(event.get("name") == "aten::mm" for event in events)
    return Counter(event["name"].removeprefix("phase/") for event in ranges), console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("steps", "traced"), [(6, 3), (3, 2), (1, 1)])
def test_steps_2_to_4_or_what_there_is(tmp_path: Path, steps: int, traced: int) -> None:
    ranges, shown = traced_run(tmp_path, steps)
    assert set(ranges) == PHASES
    assert set(ranges.values()) == {traced}
    assert f"{TRACE}. Open it at ui.perfetto.dev" in shown


def test_a_resumed_run_traces_steps_of_its_own(tmp_path: Path) -> None:
    """Three steps lie before it and two are left: the first warms up."""
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "num_train_epochs": 9}
    make_trainer(tmp_path, max_steps=3, save_strategy="steps", save_steps=3, **sizes).train()
    assert not (tmp_path / TRACE).exists()
    options = {"callbacks": [ProfileTrace(tmp_path, Console(quiet=True))]}
    trainer = make_trainer(tmp_path, max_steps=5, options=options, **sizes)
    trainer.train(resume_from_checkpoint=True, allow_changes=True)
    with gzip.open(tmp_path / TRACE, "rt") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"] if event.get("cat") == "user_annotation"]
    assert names.count("phase/rollout") == 1
