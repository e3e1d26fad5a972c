"""Drift: how far a model moved from its base on general prompts. It needs no benchmark.

Three numbers, since each alone can miss a change: the divergence from the base on the base's own answers, the
loss on general reference answers, and the share of the model's answers that have the new task's format.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.data.general import drift_examples
from selfdistill.errors import UserError
from selfdistill.method.batch import Part
from selfdistill.method.lengths import context_length
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.engines import make_engine
from selfdistill.method.scoring import divergences, in_parts, logprobs, predictions, whole_sample
from selfdistill.models.mode import evaluating
from selfdistill.models.output_head import output_head
from selfdistill.models.tokens import pad_token_id, vocab_size
from selfdistill.records.evaluations import DriftRecord, DriftSample
from selfdistill.settings.method import MethodConfig
from selfdistill.stats.scores import mean, wilson_interval
from selfdistill.tasks import TASKS
from selfdistill.types import Example, PromptPair, Rollout

FormatProbe = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A model's drift: the numbers, and a sample for each prompt."""

    record: DriftRecord
    samples: tuple[DriftSample, ...]


@dataclass(frozen=True, slots=True)
class _Measured:
    """The completions of one forward pass as tensors, with the index of each one's prompt."""

    indices: list[int]
    part: Part


class DriftProbe:
    """Measures the drift of models from a base.

    The base answers the prompts when the probe is made, which keeps its hidden states at the answers' tokens and a copy
    of its output head. Afterwards the base may be trained further or freed.

    Args:
        base_model: the model to measure against, in memory.
        tokenizer: the tokenizer of base and models.
        examples: prompts with text as reference answers; by default the shipped ones.
        format_probe: whether an answer has the new task's format; by default, that of any task with one of its own.
        max_new_tokens: longest answer in tokens.
        batch_size: sequences that go through a model together.
        engine: name of the engine that decodes.
        chat_template_kwargs: passed to the chat template.

    Raises:
        UserError: a prompt with its reference answer is longer than the base's context.
    """

    base: Drift
    """The base's drift from itself: divergence 0, and its own loss and format leak rate."""

    @torch.inference_mode()
    def __init__(
        self,
        base_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[Example] | None = None,
        *,
        format_probe: FormatProbe | None = None,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        engine: str = "auto",
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.format_probe = format_probe or any_format
        context = context_length(base_model.config)
        self.sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0, context=context)
        self._engine = engine
        self._renderer = PromptRenderer(tokenizer, chat_template_kwargs=chat_template_kwargs)
        rows = list(map(_with_reference, examples or drift_examples()))
        self._pairs = self._renderer.render_all(rows, teacher=False)
        _check_context(self._pairs, context)
        with evaluating(base_model):
            answers = self._answers(base_model)
            references = [Rollout(completion_ids=pair.demonstration_ids, finish_reason="stop") for pair in self._pairs]
            self._answered = self._measured(answers, base_model, batch_size)
            self._referred = self._measured(references, base_model, batch_size)
            self._base = [predictions(base_model, each.part.student) for each in self._answered]
            nll = self._reference_nll(base_model)
        head = output_head(base_model).detach().clone()
        self._base = [replace(predicted, head=head) for predicted in self._base]
        self._answer_texts = [self._renderer.completion_text(rollout.completion_ids) for rollout in answers]
        self.base = self._drift([0.0] * len(answers), 0.0, nll, nll, self._answer_texts)

    @torch.inference_mode()
    def measure(self, model: PreTrainedModel) -> Drift:
        """The drift of a model that uses the base's tokenizer.

        Raises:
            UserError: the model's output head has another number of tokens than the base's.
        """
        if self._base and (size := output_head(model).shape[0]) != (base_size := self._base[0].head.shape[0]):
            raise UserError(
                f"drift: the model knows {size} tokens, its base {base_size}. Name the --base_model it started from."
            )
        with evaluating(model):
            per_row = self._divergences(model)
            texts = [self._renderer.completion_text(rollout.completion_ids) for rollout in self._answers(model)]
            nll = self._reference_nll(model)
        kl = mean([value for row in per_row for value in row])
        return self._drift([mean(row) for row in per_row], kl, nll, self.base.record.reference_nll, texts)

    def _divergences(self, model: PreTrainedModel) -> list[list[float]]:
        """KL(base||model) in nats at every token of the base's answers, by prompt."""
        per_row: list[list[float]] = [[] for _ in self._pairs]
        for measured, base in zip(self._answered, self._base, strict=True):
            values = divergences(predictions(model, measured.part.student), base, measured.part.token_ids, _PLAIN)
            for index, piece in zip(measured.indices, values.split(measured.part.counts), strict=True):
                per_row[index] = piece.tolist()
        return per_row

    def _answers(self, model: PreTrainedModel) -> list[Rollout]:
        """The model's greedy answers to the prompts."""
        engine = make_engine(model, self.tokenizer, name=self._engine)
        engine.sync()
        return engine.generate([pair.student_ids for pair in self._pairs], self.sampling)

    def _measured(self, rollouts: Sequence[Rollout], model: PreTrainedModel, batch_size: int) -> list[_Measured]:
        """Prompts and completions as tensors; every token of a completion is measured."""
        rows = zip(self._pairs, rollouts, strict=True)
        samples = [whole_sample(pair, rollout, "tokens") for pair, rollout in rows]
        parts = in_parts(samples, pad_token_id(self.tokenizer, vocab_size(model)), model.device, batch_size)
        return [_Measured(indices, part) for indices, part in parts]

    def _reference_nll(self, model: PreTrainedModel) -> float:
        """Mean negative log-probability in nats of the reference answers' tokens."""
        values = [logprobs(predictions(model, each.part.student), each.part.token_ids) for each in self._referred]
        return -torch.cat(values).cpu().double().mean().item()

    def _drift(self, kl_by_row: Sequence[float], kl: float, nll: float, base_nll: float, texts: Sequence[str]) -> Drift:
        rows = zip(self._pairs, self._answer_texts, texts, kl_by_row, strict=True)
        samples = tuple(self._sample(*row) for row in rows)
        leaks = sum(sample.leaks for sample in samples)
        record = DriftRecord(
            kl_per_token=kl,
            reference_nll=nll,
            base_reference_nll=base_nll,
            format_leak_rate=leaks / len(samples),
            format_leak_interval=wilson_interval(leaks, len(samples)),
            num_prompts=len(samples),
        )
        return Drift(record=record, samples=samples)

    def _sample(self, pair: PromptPair, base_answer: str, answer: str, kl: float) -> DriftSample:
        return DriftSample(
            id=pair.example.id,
            prompt=self._renderer.text(pair.example.prompt),
            base_answer=base_answer,
            answer=answer,
            kl_per_token=kl,
            leaks=self.format_probe(answer),
        )


_PLAIN = MethodConfig(divergence="forward_kl", divergence_support="full", temperature=1.0)
"""KL(base||model) over the full vocabulary at temperature 1."""


def any_format(text: str) -> bool:
    """True if the text begins like an answer of any task that has a format of its own."""
    return any(task.format_probe(text) for task in TASKS.values() if task.format_probe)


def _check_context(pairs: Sequence[PromptPair], context: int | None) -> None:
    for pair in pairs:
        length = len(pair.student_ids) + len(pair.demonstration_ids)
        if context is not None and length > context:
            raise UserError(
                f"{pair.example.id}: prompt and reference answer have {length} tokens, the base model reads {context}. "
                "Leave drift out, or choose a model with a longer context."
            )


def _with_reference(example: Example) -> Example:
    """The example with its reference answer as the demonstration, so that the renderer gives its tokens."""
    return replace(example, demonstration=({"role": "assistant", "content": str(example.reference)},))
