"""``--profile``: the trace of a tiny run."""

import gzip
import io
import json

import pytest
from rich.console import Console
from study_home import make_home

from selfdistill.commands import train
from selfdistill.method.profile_trace import TRACE
from selfdistill.settings.commands import TrainOptions

PHASES = {"rollout", "teacher", "student", "divergence", "backward", "teacher_update"}


@pytest.fixture
def run(tmp_path, tiny_model, tokenizer):
    """Trains for so many steps; returns the trace's ranges of our phases by name, and what was printed."""
    home = make_home(tmp_path, tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512), tokenizer)

    def go(steps, **settings):
        console = Console(file=io.StringIO(), width=200)
        options = {
            "output_dir": str(home / "out"),
            "dataset_path": str(home / "one.jsonl"),
            "model_name": str(home / "model"),
            "dtype": "float32",
            "template": "prior_turn",
            "max_completion_length": 8,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "max_steps": steps,
        }
        train.run(TrainOptions(**options, **settings), console)
        if not settings.get("profile"):
            assert not (home / "out" / TRACE).exists()
            return {}, console.file.getvalue()
        assert not list((home / "out").glob(".*"))
        with gzip.open(home / "out" / TRACE, "rt") as file:
            events = json.load(file)["traceEvents"]
        ranges: dict[str, int] = {}
        for event in events:
            name = str(event.get("name"))
            if name.startswith("phase/") and event.get("cat") == "user_annotation":
                assert event["dur"] > 0
                ranges[name.removeprefix("phase/")] = ranges.get(name.removeprefix("phase/"), 0) + 1
        assert any(event.get("name") == "aten::mm" for event in events)
        return ranges, console.file.getvalue()

    return go


@pytest.mark.parametrize(("steps", "traced"), [(6, 3), (3, 2), (1, 1)])
def test_steps_2_to_4_or_what_there_is(run, steps, traced):
    ranges, shown = run(steps, profile=True)
    assert set(ranges) == PHASES
    assert set(ranges.values()) == {traced}
    assert f"{TRACE}, to be opened at ui.perfetto.dev" in shown


def test_no_trace_unless_asked_for(run):
    assert run(1)[0] == {}
