"""Scoring a task's rows with a command's decoding options and a progress bar."""

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from selfdistill.evaluate import run
from selfdistill.evaluate.scorer_choice import TaskRows
from selfdistill.evaluate.task_rows import score_rows, scoring_bar
from selfdistill.method.rollout.copies import CopyOptions
from selfdistill.method.rollout.engine import OnDone, Sampling
from selfdistill.settings.evaluate import DecodingOptions
from selfdistill.types import Example, Rollout
from tests.support.engines import Scripted, stopped
from tests.support.tiny import random_model
from tests.support.toy_task import toy_task

ROWS = [Example(id=name, prompt=({"role": "user", "content": name},)) for name in "abc"]


def test_rows_are_decoded_as_the_options_say(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    class Counting(Scripted):
        def generate(
            self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
        ) -> list[Rollout]:
            assert on_done is not None
            on_done(len(prompts))
            return super().generate(prompts, sampling, on_done)

    engine, asked = Counting(lambda _: stopped(1)), {}

    def make(*_: Any, **options: Any) -> Scripted:
        asked.update(options)
        return engine

    monkeypatch.setattr(run, "make_engine", make)
    task = toy_task(scorers={"m": lambda *_: 1.0})
    model = random_model(max_position_embeddings=99)

    def scored(**options: Any) -> Sampling:
        chosen = DecodingOptions(**options)
        found = score_rows(model, tokenizer, TaskRows(task, ROWS), chosen, Console(file=io.StringIO()))
        assert found.config.num_rows == 3
        return engine.calls[-1][1]

    plain = scored()
    assert (plain.max_new_tokens, plain.temperature, plain.top_p, plain.context) == (task.max_new_tokens, 0, 1, 99)
    own = scored(max_new_tokens=3, temperature=0.5, top_p=0.75, num_samples=2, batch_size=5, rollout_engine="generate")
    assert (own.max_new_tokens, own.temperature, own.top_p) == (3, 0.5, 0.75)
    assert len(engine.calls[-1][0]) == 6
    assert asked == {"name": "generate", "batch_size": 5, "options": CopyOptions()}
    scored(rollout_engine="vllm-server", vllm_url="u")
    assert asked["options"] == CopyOptions(url="u")
    scored(rollout_engine="vllm", vllm_memory_share=0.5)
    assert asked["options"] == CopyOptions(memory_share=0.5)
    assert own.seeds == scored(temperature=1.0, num_samples=2).seeds
    assert own.seeds != scored(temperature=1.0, num_samples=2, seed=1).seeds


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_terminals_only(terminal: bool):
    file = io.StringIO()
    with scoring_bar(Console(file=file, force_terminal=terminal, width=100), "toy", 4) as done:
        done(3)
        done(1)
    assert ("scoring toy" in file.getvalue()) == terminal
    assert ("4/4" in file.getvalue()) == terminal
