"""What a training run leaves in its folder: run_config.json, metrics.jsonl, rollouts.jsonl."""

import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from selfdistill import run_folder
from selfdistill.method.batch import MicroBatch, Part, Sample
from selfdistill.method.step import PartLoss
from selfdistill.records.runs import RolloutRecord, RunConfig, RunState

METRIC_OF = {"teacher": "divergence", "start": "anchor_divergence", "tokens": "cross_entropy"}
"""Metric in which the values of a part's tokens are averaged, by the part's target."""


class RunLog:
    """Collects a run's numbers and rollouts, and writes them.

    Args:
        folder: the run folder.
        tokenizer: decodes what is written as text.
        rollouts_per_step: rollouts kept of each step; None for all.
    """

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase, rollouts_per_step: int | None) -> None:
        self.folder = folder
        self.tokens_seen = 0
        self._tokenizer = tokenizer
        self._rollouts_per_step = rollouts_per_step
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)
        self._rollouts: dict[int, RolloutRecord] = {}
        self._started = time.perf_counter()

    # -- the run -----------------------------------------------------------------------------------------------------

    def begin(self, step: int, config: RunConfig, before: RunState | None = None) -> None:
        """Writes run_config.json; lines of steps after ``step``, left by a run that goes on from it, are dropped.

        ``before``: what the run had used up at ``step``.
        """
        self._started = time.perf_counter() - (before.seconds if before else 0.0)
        self.tokens_seen = before.tokens_seen if before else 0
        for kept in (self._sums, self._counts, self._rollouts):
            kept.clear()  # of a step that was interrupted
        for name in (run_folder.METRICS, run_folder.ROLLOUTS):
            run_folder.forget_after(self.folder / name, step)
        run_folder.write_json(self.folder / run_folder.RUN_CONFIG, config)

    def state(self) -> RunState:
        """What the run has used up so far."""
        return RunState(tokens_seen=self.tokens_seen, seconds=self.wall_seconds)

    @property
    def wall_seconds(self) -> float:
        """Seconds of training so far; those left out are not counted."""
        return time.perf_counter() - self._started

    @contextmanager
    def left_out(self) -> Generator[None]:
        """Inside, the run's clock stands still, as for an evaluation between two steps."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - start

    # -- a step ------------------------------------------------------------------------------------------------------

    def add_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Notes lengths and truncation of the completions of optimizer step ``step`` (from 1), and keeps some of
        them to write."""
        for sample in samples:
            self._add("completion_tokens", len(sample.rollout.completion_ids))
            self._add("truncated_share", sample.rollout.finish_reason == "length")
            self._add("loss_tokens", len(sample.loss_positions))
        for sample in samples[: self._rollouts_per_step]:
            self._rollouts[id(sample.rollout)] = self._record(step, sample)

    def add_part(self, part: Part, loss: PartLoss) -> None:
        """Notes the values of a part's tokens: their mean is over tokens, however they were dealt out."""
        self._add(METRIC_OF[part.target], float(loss.per_token.sum()), len(loss.per_token))
        if loss.importance is not None:
            self._add("importance_weight", float(loss.importance.sum()), len(loss.importance))
        field = "per_token_cross_entropy" if part.target == "tokens" else "per_token_kl"
        for sample, values in zip(part.samples, loss.per_token.split(part.counts), strict=True):
            record = self._rollouts.get(id(sample.rollout))
            if record is not None:
                rounded = [round(value, 5) for value in values.tolist()]
                self._rollouts[id(sample.rollout)] = replace(record, **{field: rounded})

    def add_tokens(self, micro_batch: MicroBatch) -> None:
        """Counts what a micro-batch let pass through the student."""
        self.tokens_seen += sum(sample.student_tokens for sample in micro_batch.samples)

    def loss_tokens(self) -> float:
        """Loss tokens for each completion since the last line of metrics; 0 where nothing was learned from."""
        return self._sums["loss_tokens"]

    def means(self) -> dict[str, float]:
        """Mean of every metric since the last call, and what the run has used up so far."""
        means = {name: self._sums[name] / count for name, count in self._counts.items() if count}
        self._sums.clear()
        self._counts.clear()
        return means | {"tokens_seen": self.tokens_seen, "wall_seconds": self.wall_seconds}

    def write_metrics(self, step: int, logs: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl."""
        line = {"step": step, **logs, "format": run_folder.FORMAT}
        run_folder.append_jsonl(self.folder / run_folder.METRICS, [line])

    def write_rollouts(self) -> None:
        """Adds the step's kept rollouts to rollouts.jsonl."""
        run_folder.append_jsonl(self.folder / run_folder.ROLLOUTS, self._rollouts.values())
        self._rollouts.clear()

    def _add(self, name: str, total: float, count: float = 1.0) -> None:
        self._sums[name] += total
        self._counts[name] += count

    def _record(self, step: int, sample: Sample) -> RolloutRecord:
        pair, rollout = sample.pair, sample.rollout
        return RolloutRecord(
            step=step,
            id=pair.example.id,
            target=sample.target,
            student_prompt=_decoded(self._tokenizer, pair.student_ids),
            teacher_prompt=None if sample.target == "tokens" else _decoded(self._tokenizer, sample.teacher_ids),
            completion=_decoded(self._tokenizer, rollout.completion_ids),
            completion_ids=list(rollout.completion_ids),
            tokens=token_texts(self._tokenizer, rollout.completion_ids),
            finish_reason=rollout.finish_reason,
            loss_positions=list(sample.loss_positions),
        )


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
