"""What a training run leaves in its folder: run_config.json, metrics.jsonl, rollouts.jsonl."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from selfdistill import run_folder
from selfdistill.method.batch import Part, Sample
from selfdistill.settings.method import deviations_from_paper


class RunRecorder:
    """Collects a step's numbers and rollouts, and writes them.

    Args:
        folder: the run folder.
        tokenizer: decodes what is written as text.
        rollouts_per_step: rollouts kept of each step; None for all.
        enabled: False on all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        rollouts_per_step: int | None,
        enabled: bool,
    ) -> None:
        self.folder = folder
        self._tokenizer = tokenizer
        self._rollouts_per_step = rollouts_per_step
        self._enabled = enabled
        self._values: dict[str, list[float]] = defaultdict(list)
        self._rollouts: dict[int, dict[str, Any]] = {}
        self._started = time.perf_counter()

    def begin(self, step: int, settings: dict[str, Any], facts: dict[str, Any]) -> None:
        """Writes run_config.json; lines of steps after ``step``, left by a run that goes on from it, are dropped."""
        self._started = time.perf_counter()
        if not self._enabled:
            return
        for name in (run_folder.METRICS, run_folder.ROLLOUTS):
            run_folder.forget_after(self.folder / name, step)
        config = {
            **facts,
            "versions": run_folder.versions(),
            "deviations_from_paper": deviations_from_paper(settings),
            "settings": settings,
        }
        run_folder.write_json(self.folder / run_folder.CONFIG, config)

    def add(self, name: str, value: float) -> None:
        """Notes one value of a metric; a line of metrics.jsonl holds their mean."""
        self._values[name].append(value)

    def add_samples(self, samples: Sequence[Sample]) -> None:
        """Notes lengths and truncation of a step's completions, and keeps some of them to write."""
        rollouts = [sample.rollout for sample in samples]
        self.add("completion_tokens", sum(len(r.completion_ids) for r in rollouts) / len(rollouts))
        self.add("truncated_share", sum(r.finish_reason == "length" for r in rollouts) / len(rollouts))
        for sample in samples[: self._rollouts_per_step]:
            pair, rollout = sample.pair, sample.rollout
            self._rollouts[id(rollout)] = {
                "id": pair.example.id,
                "target": sample.target,
                "student_prompt": self._text(pair.student_ids),
                "teacher_prompt": self._text(pair.teacher_ids),
                "completion": self._text(rollout.completion_ids),
                "completion_ids": list(rollout.completion_ids),
                "tokens": token_texts(self._tokenizer, rollout.completion_ids),
                "finish_reason": rollout.finish_reason,
                "loss_positions": list(sample.loss_positions),
            }

    def add_per_token(self, part: Part, per_token: Tensor) -> None:
        """Notes the mean of a part's per-token values [N], and the values of the rollouts that are kept."""
        name = {"teacher": "divergence", "start": "anchor_divergence", "tokens": "cross_entropy"}
        self.add(name[part.target], per_token.mean().item())
        pieces = per_token.split([len(sample.loss_positions) for sample in part.samples])
        for sample, values in zip(part.samples, pieces, strict=True):
            row = self._rollouts.get(id(sample.rollout))
            if row is not None:
                row["per_token_kl"] = [round(value, 5) for value in values.tolist()]

    @property
    def wall_seconds(self) -> float:
        """Seconds of the run so far, those left out not counted."""
        return time.perf_counter() - self._started

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Inside, the run's clock stands still, as for an evaluation between two steps."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - start

    def means(self) -> dict[str, float]:
        """Mean of every metric since the last call, and the run's wall seconds so far."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values.clear()
        return means | {"wall_seconds": self.wall_seconds}

    def write_metrics(self, step: int, logs: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl."""
        if self._enabled:
            run_folder.append_jsonl(self.folder / run_folder.METRICS, [{"step": step, **logs}])

    def write_rollouts(self, step: int) -> None:
        """Adds the step's kept rollouts to rollouts.jsonl."""
        if self._enabled:
            rows = [{"step": step, **row} for row in self._rollouts.values()]
            run_folder.append_jsonl(self.folder / run_folder.ROLLOUTS, rows)
        self._rollouts.clear()

    def _text(self, ids: Sequence[int]) -> str:
        return _decoded(self._tokenizer, ids)


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; joined, they are the decoded text.

    A character whose bytes are spread over several tokens belongs to the last of them. Each token is decoded
    behind the one before it: alone it would lose the blank that some tokenizers write at the start of a word.
    """
    texts: list[str] = []
    start, known = 0, ""  # text of ids[start:] that earlier tokens have added
    for end in range(1, len(ids) + 1):
        text = _decoded(tokenizer, ids[start:end])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids):
            texts.append("")
            continue
        texts.append(text[len(known) :])
        start, known = end - 1, _decoded(tokenizer, ids[end - 1 : end])
    return texts


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids))
    assert isinstance(text, str)
    return text
