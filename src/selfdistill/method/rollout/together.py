"""Completions that both models read as they grow: the student draws every token, and the teacher judges it.

Two decoding loops go in step, one token at a time. Each model has its own prompt and key-value cache; both caches get
the token that was written, so that a judgement is always about the very prefix that stands there. A judge is a function
of the teacher's logits and the student's draw. ``drawn`` [B] holds a uniform number in [0, 1) per sequence, from a
stream of its own: without a judgement the tokens are those that the student alone would draw.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfdistill.method.rollout.decoding import Decoder, State, advance, as_rollout, make_decoder, prefill, with_room
from selfdistill.method.rollout.engine import Sampling, in_batches
from selfdistill.method.rollout.own import OwnEngine
from selfdistill.method.rollout.sampling import sample, uniforms
from selfdistill.models.mode import evaluating
from selfdistill.types import Rollout

OTHER_STREAM = 0x5DEECE66
"""A seed with these bits flipped is that of the judge's random numbers. torch's generator reads the lower 32 bits."""
Judge = Callable[[Tensor, Tensor, Tensor, Sampling, Tensor], tuple[Tensor, Tensor]]
"""Maps tokens [B] int64, their logprobs under the student [B] in nats, the teacher's logits [B, V] fp32, the sampling
and ``drawn`` [B] to the tokens to write, [B] int64, and which of them the teacher did not let pass, [B] bool."""
Context = Callable[[], AbstractContextManager[None]]


def accept(
    tokens: Tensor, logprobs: Tensor, teacher_logits: Tensor, sampling: Sampling, drawn: Tensor
) -> tuple[Tensor, Tensor]:
    """A token passes with probability min(1, p / q), as in speculative decoding (arXiv 2211.17192), both at the
    sampling temperature and before top_p. Tokens stay as they are."""
    teacher = (teacher_logits / sampling.temperature).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    return tokens, drawn >= (teacher - logprobs).exp()


def interleave(
    tokens: Tensor, logprobs: Tensor, teacher_logits: Tensor, sampling: Sampling, drawn: Tensor, *, top_k: int
) -> tuple[Tensor, Tensor]:
    """A token passes if fewer than ``top_k`` are likelier under the teacher. Any other is replaced by a sample of the
    teacher's, drawn as the student's tokens are (arXiv 2410.11325)."""
    own = teacher_logits.gather(-1, tokens[:, None])
    outside = (teacher_logits > own).sum(-1) >= top_k
    if not bool(outside.any()):
        return tokens, outside
    replacements, _ = sample(teacher_logits, sampling, drawn)
    return torch.where(outside, replacements, tokens), outside


@dataclass(frozen=True, slots=True)
class Prompts:
    """The token ids of a prompt as each model reads it. Its length is that of the longer one."""

    student: Sequence[int]
    teacher: Sequence[int]

    def __len__(self) -> int:
        return max(len(self.student), len(self.teacher))


@dataclass(slots=True)
class _Side:
    """One of the two models, with what it has read so far."""

    decoder: Decoder
    state: State
    logits: Tensor
    """[B, V] fp32: of the next token."""
    context: Context
    """Context in which the module has the model's weights."""

    def read(self, tokens: Tensor, finished: set[int]) -> None:
        """Reads a token of each sequence, [B] int64, after removing ``finished`` ones if that pays."""
        kept = self.state.compact(finished)
        with self.context():
            advance(self.state, tokens if kept is None else tokens[kept], self.decoder)
            self.logits = self.decoder.logits(self.state.hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Samples completions of a student with a judge.

    Args:
        engine: our engine for the student.
        teacher: the module that computes the teacher's logits; it may be the student's.
        context: context in which that module has the teacher's weights.
        judge: see ``Judge``.
        ends: whether a token that did not pass ends the completion. Otherwise it was replaced.
    """

    engine: OwnEngine
    teacher: PreTrainedModel
    context: Context
    judge: Judge
    ends: bool

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompts], sampling: Sampling) -> list[Rollout]:
        """Samples a completion of each prompt, in their order, at a temperature above 0. Their ``replaced`` or
        ``accepted`` is set. Logprobs are those of the student's draws, also where a draw was replaced."""
        rows = min(self.engine.batch_size, max(1, len(prompts)))
        with evaluating(self.engine.model), evaluating(self.teacher):
            student = make_decoder(self.engine.model, rows, sampling.max_new_tokens)
            with self.context():
                teacher = make_decoder(self.teacher, rows, sampling.max_new_tokens)
            complete = partial(self._complete, student, teacher)
            return in_batches(prompts, sampling, self.engine.batch_size, complete, shrink=self.engine.shrink)

    def _complete(
        self, student: Decoder, teacher: Decoder, prompts: list[Prompts], sampling: Sampling
    ) -> list[Rollout]:
        assert sampling.seeds is not None
        limit, device = sampling.max_new_tokens, self.engine.model.device
        asked = self._start(self.engine.model, student, nullcontext, [prompt.student for prompt in prompts], limit)
        taught = self._start(self.teacher, teacher, self.context, [prompt.teacher for prompt in prompts], limit)
        drawn = uniforms(sampling.seeds, limit, device)
        judged = uniforms([seed ^ OTHER_STREAM for seed in sampling.seeds], limit, device)
        assert drawn is not None
        assert judged is not None
        written = [_Written() for _ in prompts]
        finished: set[int] = set()
        for step in range(limit):
            owners = asked.state.owners
            draws, logprobs = sample(asked.logits, sampling, drawn[owners, step])
            tokens, stopped = self.judge(draws, logprobs, taught.logits, sampling, judged[owners, step])
            for owner, token, logprob, mark in zip(
                owners, tokens.tolist(), logprobs.tolist(), stopped.tolist(), strict=True
            ):
                if owner not in finished:
                    written[owner].add(token, logprob, mark)
                    if token in self.engine.eos_token_ids or (mark and self.ends):
                        finished.add(owner)
            if len(finished) == len(prompts) or step + 1 == limit:
                break
            asked.read(tokens, finished)
            taught.read(tokens, finished)
        return [self._rollout(each, sampling) for each in written]

    def _start(
        self, model: PreTrainedModel, decoder: Decoder, context: Context, prompts: list[Sequence[int]], room: int
    ) -> _Side:
        with context():
            state = prefill(model, prompts, self.engine.pad_token_id, partial(with_room, room=room))
            return _Side(decoder, state, decoder.logits(state.hidden), context)

    def _rollout(self, written: "_Written", sampling: Sampling) -> Rollout:
        logprobs = written.logprobs if sampling.logprobs else None
        rollout = as_rollout(written.ids, logprobs, self.engine.eos_token_ids)
        if not self.ends:
            return replace(rollout, replaced=tuple(written.marks))
        rejected = len(written.marks)  # 1 if the last token did not pass
        reason = "rejected" if rejected else rollout.finish_reason
        return replace(rollout, finish_reason=reason, accepted=len(written.ids) - rejected)


class _Written:
    """A completion so far."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.marks: list[int] = []
        """Places of the tokens that did not pass."""

    def add(self, token: int, logprob: float, mark: bool) -> None:
        if mark:
            self.marks.append(len(self.ids))
        self.ids.append(token)
        self.logprobs.append(logprob)
