"""Drift: how far a model moved from its base on general prompts. It needs no benchmark.

Three numbers, since each alone is blind: the divergence from the base on the base's own answers, the
loss on general reference answers, and the share of the model's answers that carry the new task's form.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.data.general import drift_examples
from selfdistill.method.batch import Part, Sample, micro_batches
from selfdistill.method.divergence import chunked_divergence, chunked_logprobs
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.batched import make_engine
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.scoring import hidden_states
from selfdistill.models.loading import eos_token_ids, pad_token_id
from selfdistill.models.mode import evaluating
from selfdistill.models.output_head import head_transform, output_head
from selfdistill.stats.scores import mean, wilson_interval
from selfdistill.tasks import TASKS
from selfdistill.types import Example, PromptPair, Rollout, UserError

FormatProbe = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSample:
    """One general prompt."""

    id: str
    prompt: str
    base_answer: str
    """The base's greedy answer, on which the divergence is measured."""
    answer: str
    """The model's greedy answer."""
    kl_per_token: float
    """Mean KL(base||model) in nats over the tokens of the base's answer."""
    leaks: bool
    """Whether the model's answer begins like an answer of the new task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What was measured."""

    kl_per_token: float
    """KL(base||model) in nats, mean over all tokens of the base's answers."""
    reference_nll: float
    """The model's loss on the reference answers, in nats, mean over all their tokens, end of turn included."""
    base_reference_nll: float
    """The base's."""
    format_leak_rate: float
    """Share of the model's answers that begin like an answer of the new task."""
    samples: tuple[DriftSample, ...]

    def summary(self) -> dict[str, Any]:
        """What ``eval_results.json`` holds for drift."""
        leaks = sum(sample.leaks for sample in self.samples)
        return {
            "kl_per_token": self.kl_per_token,
            "reference_nll": self.reference_nll,
            "base_reference_nll": self.base_reference_nll,
            "format_leak_rate": self.format_leak_rate,
            "format_leak_interval": list(wilson_interval(leaks, len(self.samples))),
            "num_prompts": len(self.samples),
        }


class DriftProbe:
    """Measures models against a base.

    The base answers once, here. What the divergence needs of it afterwards is kept: its hidden states at the
    answers' tokens and its output head. So it may be trained further, or freed, while the probe is in use.

    Args:
        base_model: the model to measure against, in memory.
        tokenizer: the tokenizer of base and models.
        examples: prompts with reference answers (text); by default the shipped ones.
        format_probe: tells the new task's form; by default that of any task that has one.
        max_new_tokens: longest answer in tokens.
        batch_size: sequences that go through a model together.
    """

    base: Drift
    """The base measured against itself: no divergence, its own loss and leak rate."""

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
    ) -> None:
        self.tokenizer = tokenizer
        self.format_probe = format_probe or any_format
        self.sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0)
        self._renderer = PromptRenderer(tokenizer)
        self._pairs = [self._renderer.render(example) for example in map(_with_reference, examples or drift_examples())]
        with evaluating(base_model):
            answers = self._answers(base_model)
            references = [Rollout(completion_ids=pair.demonstration_ids, finish_reason="stop") for pair in self._pairs]
            self._answer_parts = self._parts(answers, base_model, batch_size)
            self._reference_parts = self._parts(references, base_model, batch_size)
            self._hidden = [hidden_states(base_model, part.student) for part in self._answer_parts]
            nll = self._reference_nll(base_model)
        self._head = output_head(base_model).detach().clone()
        self._answer_texts = [self._renderer.completion_text(rollout.completion_ids) for rollout in answers]
        self.base = self._drift([0.0] * len(answers), 0.0, nll, nll, self._answer_texts)

    @torch.inference_mode()
    def measure(self, model: PreTrainedModel) -> Drift:
        """The drift of a model with the base's tokenizer.

        Raises:
            UserError: the model's output head is of another vocabulary.
        """
        if (size := output_head(model).shape[0]) != (base_size := self._head.shape[0]):
            raise UserError(
                f"drift: the model knows {size} tokens, its base {base_size}. Name the --base_model it started from."
            )
        with evaluating(model):
            per_row = self._divergences(model)
            texts = [self._renderer.completion_text(rollout.completion_ids) for rollout in self._answers(model)]
            nll = self._reference_nll(model)
        kl = mean([value for row in per_row for value in row])
        return self._drift([mean(row) for row in per_row], kl, nll, self.base.reference_nll, texts)

    def _divergences(self, model: PreTrainedModel) -> list[list[float]]:
        """KL(base||model) of every token of the base's answers, by prompt."""
        transform = head_transform(model.config)
        per_row: list[list[float]] = [[] for _ in self._pairs]
        place = {id(pair): index for index, pair in enumerate(self._pairs)}
        for part, hidden in zip(self._answer_parts, self._hidden, strict=True):
            values = chunked_divergence(
                hidden_states(model, part.student),
                output_head(model),
                hidden,
                self._head,
                logit_scale=transform.scale,
                softcap=transform.softcap,
            )
            pieces = values.split([len(sample.loss_positions) for sample in part.samples])
            for sample, piece in zip(part.samples, pieces, strict=True):
                per_row[place[id(sample.pair)]] = piece.tolist()
        return per_row

    def _answers(self, model: PreTrainedModel) -> list[Rollout]:
        """Greedy answers to the prompts."""
        engine = make_engine(model, eos_token_ids(model, self.tokenizer), pad_token_id(self.tokenizer))
        return engine.generate([pair.student_ids for pair in self._pairs], self.sampling)

    def _parts(self, rollouts: Sequence[Rollout], model: PreTrainedModel, batch_size: int) -> list[Part]:
        """Prompts with their completions as tensors, every token of which is measured."""
        samples = [
            Sample(
                pair=pair, rollout=rollout, target="tokens", loss_positions=tuple(range(len(rollout.completion_ids)))
            )
            for pair, rollout in zip(self._pairs, rollouts, strict=True)
        ]
        count = -(-len(samples) // batch_size)
        batches = micro_batches(samples, count, pad_token_id(self.tokenizer), model.device)
        return [part for batch in batches for part in batch.parts]

    def _reference_nll(self, model: PreTrainedModel) -> float:
        transform = head_transform(model.config)
        logprobs = [
            chunked_logprobs(
                hidden_states(model, part.student),
                output_head(model),
                part.token_ids,
                logit_scale=transform.scale,
                softcap=transform.softcap,
            )
            for part in self._reference_parts
        ]
        return -torch.cat(logprobs).double().mean().item()

    def _drift(self, kl_by_row: Sequence[float], kl: float, nll: float, base_nll: float, texts: Sequence[str]) -> Drift:
        rows = zip(self._pairs, self._answer_texts, texts, kl_by_row, strict=True)
        samples = tuple(self._sample(*row) for row in rows)
        return Drift(
            kl_per_token=kl,
            reference_nll=nll,
            base_reference_nll=base_nll,
            format_leak_rate=mean([float(sample.leaks) for sample in samples]),
            samples=samples,
        )

    def _sample(self, pair: PromptPair, base_answer: str, answer: str, kl: float) -> DriftSample:
        return DriftSample(
            id=pair.example.id,
            prompt=self._renderer.text(pair.example.prompt),
            base_answer=base_answer,
            answer=answer,
            kl_per_token=kl,
            leaks=self.format_probe(answer),
        )


def any_format(text: str) -> bool:
    """True where the text begins like an answer of any task that has a form of its own."""
    return any(task.format_probe(text) for task in TASKS.values() if task.format_probe)


def _with_reference(example: Example) -> Example:
    """The reference answer as the demonstration, so that the renderer gives its tokens."""
    return replace(example, demonstration=({"role": "assistant", "content": str(example.reference)},))
