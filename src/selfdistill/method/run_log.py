"""Writes the records of a training run: run_config.json, metrics.jsonl, rollouts.jsonl."""

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from selfdistill import run_folder
from selfdistill.method.batch import MicroBatch, Part, Sample
from selfdistill.method.collapse import Watch, measures
from selfdistill.method.processes import ALONE, Processes
from selfdistill.method.step import PartLoss
from selfdistill.records.runs import AnswerRecord, RolloutRecord, RunConfig, RunState
from selfdistill.types import Rollout

METRIC_OF = {"teacher": "divergence", "start": "anchor_divergence", "tokens": "cross_entropy"}
"""Name of the metric that averages a part's per-token values, by the part's target."""


@dataclass(slots=True)
class _Share:
    """What a process recorded in a step, and the others don't know yet."""

    tokens: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    rollouts: list[RolloutRecord] = field(default_factory=list[RolloutRecord])
    completions: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    """Those that the student wrote, without anchors."""
    logprobs: list[float] = field(default_factory=list[float])
    """The sampler's logprobs of their tokens in nats, as far as they are known."""


class RunLog:
    """Collects a run's metrics and rollouts, and writes them.

    Of several processes each collects its own and the main one writes; after ``write_rollouts`` all know all numbers.

    What a part of a micro-batch leaves stays on its device until ``means`` or ``write_rollouts`` needs it, and is then
    copied all at once: a copy waits for everything that the device has queued.

    Args:
        folder: the run folder.
        tokenizer: decodes token ids for the records.
        rollouts_per_step: number of rollouts written per step; None for all.
        processes: of the run.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        rollouts_per_step: int | None,
        processes: Processes = ALONE,
    ) -> None:
        self.folder = folder
        self.tokens_seen = 0
        self.skipped_steps = 0
        """Steps that changed nothing, since their gradients were not finite."""
        self._processes = processes
        self._share = _Share()
        self._tokenizer = tokenizer
        self._rollouts_per_step = rollouts_per_step
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)
        self._rollouts: dict[int, RolloutRecord] = {}
        self._written: list[Rollout] = []  # the present step's by the student, without anchors
        self.last_rollouts: list[RolloutRecord] = []
        """The last step's that were written; empty in other processes than the main one."""
        self._watch = Watch()
        self.collapse: str | None = None
        """What collapsed in the last step, in words, the first time that something did."""
        self._on_device: list[tuple[Tensor, Callable[[list[float]], None]]] = []  # [n], and what takes its n values
        self._step: list[tuple[Sample, Tensor]] = []  # the present step's, with the values [n] of their loss tokens
        self._lines: dict[str, int] = defaultdict(int)
        self._seconds_before = 0.0
        self._is_closed = False
        self._started = time.perf_counter()

    # -- the run -----------------------------------------------------------------------------------------------------

    def begin(
        self, step: int, config: RunConfig, before: RunState | None = None, *, is_finished: bool = False
    ) -> list[str]:
        """Writes run_config.json, and drops records of steps after ``step``, which are about to be trained again.

        Args:
            step: optimizer steps that were made before.
            config: of the run.
            before: what a resumed run had used and added up by ``step``.
            is_finished: there is no step left. Then at most the summary is added, if it is missing.

        Returns:
            Names of the .jsonl files that have fewer lines than they had at ``step``, because some were lost.
        """
        before = before or RunState(tokens_seen=0, seconds=0.0)
        self._started = time.perf_counter() - before.seconds
        self._seconds_before = before.seconds
        self.tokens_seen, self.skipped_steps = before.tokens_seen, before.skipped_steps
        self._share = _Share()
        for kept in (self._sums, self._counts, self._rollouts, self._on_device, self._step, self._written):
            kept.clear()  # left by an interrupted step
        self._watch.seen, self._watch.has_warned = list(before.watched), before.has_warned
        self._sums.update({name: math.nan if total is None else total for name, total in before.sums.items()})
        self._counts.update(before.counts)
        if not self._processes.is_main:
            return []
        for name in run_folder.GROWING:  # the answers before the first step have step 0
            self._lines[name] = run_folder.forget_after(self.folder / name, step or -1)
        last = run_folder.last_row(self.folder / run_folder.METRICS) if is_finished else {}
        self._is_closed = last.get("step") == step and "train_loss" in last
        if not is_finished:
            run_folder.write_json(self.folder / run_folder.RUN_CONFIG, config)
        return [name for name, number in before.lines.items() if self._lines[name] < number]

    def state(self, **progress: Any) -> RunState:
        """What the run has used and added up so far. ``progress``: the other fields of RunState."""
        self._fetch()
        return RunState(
            tokens_seen=self.tokens_seen,
            skipped_steps=self.skipped_steps,
            seconds=self.wall_seconds,
            sums=dict(self._sums),
            counts=dict(self._counts),
            lines=dict(self._lines),
            watched=list(self._watch.seen),
            has_warned=self._watch.has_warned,
            **progress,
        )

    def sync(self) -> None:
        """Forces the .jsonl files to disk."""
        for name in run_folder.GROWING:
            if (self.folder / name).exists():
                run_folder.sync(self.folder / name)
        run_folder.sync(self.folder)

    @property
    def wall_seconds(self) -> float:
        """Seconds of training so far, without those spent in ``left_out``."""
        return time.perf_counter() - self._started

    @contextmanager
    def left_out(self) -> Generator[None]:
        """Stops the run's clock while the body runs, for example an evaluation between two steps."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - start

    # -- a step ------------------------------------------------------------------------------------------------------

    def add_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Records the completions of optimizer step ``step`` (from 1): lengths and truncation of all, some in full."""
        self._step.clear()
        self._written = [one.rollout for one in samples if one.writer == "student" and one.target == "teacher"]
        for sample in samples:
            self._add("completion_tokens", len(sample.rollout.completion_ids))
            self._add("truncated_share", sample.rollout.finish_reason == "length")
            self._add("loss_tokens", len(sample.loss_positions))
            self._add_source(sample)
            self._add_shown(sample)
        kept = self._rollouts_per_step
        own = None if kept is None else len(self._processes.own(range(kept)))
        for sample in samples[:own]:
            self._rollouts[id(sample.rollout)] = self._record(step, sample)

    def _add_source(self, sample: Sample) -> None:
        """Records what others than the student wrote or would not have let pass, if they could."""
        rollout = sample.rollout
        if sample.mixed:
            self._add("mixture_share", sample.writer != "student")
        if rollout.replaced is not None:
            self._add("replaced_share", len(rollout.replaced), len(rollout.completion_ids))
        if rollout.accepted is not None:
            self._add("accepted_tokens", rollout.accepted)
            self._add("rejected_share", rollout.finish_reason == "rejected")

    def _add_shown(self, sample: Sample) -> None:
        """Records what the teacher was shown, if that depends on the completions."""
        if (shown := sample.shown) is None:
            return
        if shown.score is not None:
            self._add("rollout_score", shown.score)
        for name in ("prompt_succeeded", "own_success", "feedback", "untaught", "left_out"):
            if (value := getattr(shown, name)) is not None:
                self._add(f"{name}_share", value)

    def add_part(self, part: Part, loss: PartLoss) -> None:
        """Records the per-token values of a part. Means are over all tokens, so micro-batches do not affect them."""
        self._step += zip(part.samples, loss.per_token.split(part.counts), strict=True)
        self._add_sum(METRIC_OF[part.target], loss.per_token)
        for name, weights in (("importance_weight", loss.importance), ("token_weight", loss.token_weights)):
            if weights is not None:
                self._add_sum(name, weights)
        field = "per_token_cross_entropy" if part.target == "tokens" else "per_token_kl"
        for sample, values in zip(part.samples, loss.per_token.split(part.counts), strict=True):
            if id(sample.rollout) in self._rollouts:
                self._on_device.append((values, partial(self._set_values, id(sample.rollout), field)))

    def rows_not_finite(self) -> list[str]:
        """Ids of the present step's rows that have a token whose divergence or cross-entropy is not finite."""
        return [sample.pair.example.id for sample, values in self._step if not torch.isfinite(values).all()]

    def add_tokens(self, micro_batch: MicroBatch) -> None:
        """Adds the prompt and completion tokens that the student read in a micro-batch to ``tokens_seen``."""
        self._share.tokens += sum(sample.student_tokens for sample in micro_batch.samples)

    def means(self) -> dict[str, float]:
        """Returns the mean of every metric since the last call, and the run's tokens and seconds so far."""
        self._fetch()
        means = {name: self._sums[name] / count for name, count in self._counts.items() if count}
        self._sums.clear()
        self._counts.clear()
        totals = {"tokens_seen": self.tokens_seen, "wall_seconds": self.wall_seconds}
        return means | totals | ({"skipped_steps": self.skipped_steps} if self.skipped_steps else {})

    def write_metrics(self, step: int, logs: dict[str, float]) -> None:
        """Appends a line to metrics.jsonl, unless the summary of the run stands there already."""
        if self._is_closed or not self._processes.is_main:
            return
        line = {"step": step, **logs, "format": run_folder.FORMAT}
        run_folder.append_jsonl(self.folder / run_folder.METRICS, [line])
        self._lines[run_folder.METRICS] += 1

    def write_answers(self, answers: Sequence[AnswerRecord]) -> None:
        """Appends answers to held-out rows to answers.jsonl."""
        run_folder.append_jsonl(self.folder / run_folder.ANSWERS, answers)
        self._lines[run_folder.ANSWERS] += len(answers)

    def write_rollouts(self) -> None:
        """Adds up what all processes recorded in the step, and appends its recorded rollouts to rollouts.jsonl."""
        self._fetch()
        self._share.rollouts = list(self._rollouts.values())
        self._rollouts.clear()
        self._share.completions = [rollout.completion_ids for rollout in self._written]
        self._share.logprobs = [value for rollout in self._written for value in rollout.logprobs or ()]
        self._written = []
        shares = self._processes.gathered(self._share)
        self._share = _Share()
        for share in shares:
            self._take_in(share)
        self._look_for_collapse(shares)
        if self._processes.is_main:
            self.last_rollouts = self._processes.in_order([share.rollouts for share in shares])
            run_folder.append_jsonl(self.folder / run_folder.ROLLOUTS, self.last_rollouts)
            self._lines[run_folder.ROLLOUTS] += len(self.last_rollouts)

    def _look_for_collapse(self, shares: Sequence[_Share]) -> None:
        """Measures the step's completions of all processes, alike in each of them."""
        completions = sorted(ids for share in shares for ids in share.completions)
        found = measures(completions)
        logprobs = [value for share in shares for value in share.logprobs]
        if logprobs:
            found["entropy"] = -fmean(logprobs)
        for name, value in found.items():
            self._sums[name] += value
            self._counts[name] += 1
        self.collapse = None
        if "self_bleu" in found:
            self.collapse = self._watch.see(found | {"completion_tokens": fmean(map(len, completions))})

    def of_the_whole_run(self, summary: dict[str, float]) -> dict[str, float]:
        """transformers' summary of a training, with times that count what was trained before it was resumed.

        ``summary`` has the numbers of all steps over the time of the last call alone.
        """
        runtime = summary["train_runtime"]
        share = runtime / (runtime + self._seconds_before) if self._seconds_before else 1.0
        rates = {name: rate * share for name, rate in summary.items() if name.endswith("_per_second")}
        return summary | rates | {"train_runtime": runtime + self._seconds_before}

    def _add(self, name: str, total: float, count: float = 1.0) -> None:
        self._share.sums[name] += total
        self._share.counts[name] += count

    def _add_sum(self, name: str, values: Tensor) -> None:
        """Adds ``values`` [n] to a metric, once they are fetched."""
        count = len(values)
        self._on_device.append((values.sum()[None], lambda found: self._add(name, found[0], count)))

    def _set_values(self, rollout: int, field: str, values: list[float]) -> None:
        """Gives a rollout's record the values of its loss tokens."""
        self._rollouts[rollout] = replace(self._rollouts[rollout], **{field: [round(value, 5) for value in values]})

    def _fetch(self) -> None:
        """Copies what the parts left on the device, and adds it to the metrics and records."""
        if self._on_device:
            tensors, takers = zip(*self._on_device, strict=True)
            self._on_device.clear()
            sizes = [len(tensor) for tensor in tensors]
            found = iter(torch.cat(tensors).tolist())
            for size, take in zip(sizes, takers, strict=True):
                take(list(itertools.islice(found, size)))
        if self._processes.size == 1:
            self._take_in(self._share)
            self._share = _Share()

    def _take_in(self, share: _Share) -> None:
        """Adds what a process recorded to the run's numbers."""
        self.tokens_seen += share.tokens
        for name, total in share.sums.items():
            self._sums[name] += total
            self._counts[name] += share.counts[name]

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
            writer=sample.writer,
            replaced=None if rollout.replaced is None else list(rollout.replaced),
            loss_positions=list(sample.loss_positions),
        )


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Returns the text that each token adds; joined, the texts are the decoded text.

    A character whose bytes are spread over several tokens is given to the last of them. Each token is decoded together
    with the one before it, because some tokenizers drop the blank before a word that stands alone.
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
