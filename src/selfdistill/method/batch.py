"""Rollouts to tensors: which hidden states predict which tokens, and how much each token weighs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selfdistill.types import PromptPair, Reduction, Rollout, Target

CPU_TOKENS_PER_FORWARD = 1536
"""Tokens of one forward pass on a CPU: with more, hidden states fall out of the cache, and padding grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt with its completion and the tokens of it that are learned from."""

    pair: PromptPair
    rollout: Rollout
    loss_positions: tuple[int, ...]
    """Completion positions that carry loss, rising; may be empty."""
    target: Target
    weight: float = 0.0
    """Weight of each of its loss tokens in the step's loss."""

    @property
    def teacher_ids(self) -> tuple[int, ...]:
        """The teacher's prompt; the student's where the teacher reads the same."""
        return self.pair.student_ids if self.pair.teacher_ids is None else self.pair.teacher_ids

    @property
    def student_tokens(self) -> int:
        """Length of what the student reads in training, prompt and completion."""
        return len(self.pair.student_ids) + len(self.rollout.completion_ids)

    @property
    def teacher_tokens(self) -> int:
        """Length of what the teacher reads; 0 where there is none."""
        return 0 if self.target == "tokens" else len(self.teacher_ids) + len(self.rollout.completion_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Right-padded sequences and the N positions in them whose next token carries loss.

    No attention mask is needed: padding comes last, and attention looks back only.
    """

    input_ids: Tensor
    """[B, T] int64, prompt and completion without its last token."""
    rows: Tensor
    """[N] int64 into the flattened [B * T] positions: the hidden state there predicts the loss token."""


def tokens_per_forward(device: torch.device) -> int | None:
    """Upper bound on tokens, with padding, in one forward pass; None for no limit."""
    return CPU_TOKENS_PER_FORWARD if device.type == "cpu" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Samples of a micro-batch that share a target."""

    target: Target
    samples: tuple[Sample, ...]
    student: tuple[Scored, ...]
    """The samples in order, in as many passes as ``tokens_per_forward`` makes of them."""
    teacher: tuple[Scored, ...] | None
    """The same completions after the teacher's prompts; None where nothing is compared."""
    token_ids: Tensor
    """[N] int64, the loss tokens, sample after sample."""
    weights: Tensor
    """[N] fp32, each token's weight in the step's loss."""
    sampler_logprobs: Tensor | None
    """[N] fp32, the sampler's logprobs of the loss tokens in nats, or None where the engine gave none."""

    @property
    def counts(self) -> list[int]:
        """Loss tokens of each sample; N together."""
        return [len(sample.loss_positions) for sample in self.samples]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """What one forward and backward pass takes."""

    parts: tuple[Part, ...]

    @property
    def samples(self) -> list[Sample]:
        """The samples of all parts."""
        return [sample for part in self.parts for sample in part.samples]


def loss_positions(
    rollout: Rollout, *, skip: int = 0, mask_truncated: bool = False, think_end: Sequence[int] = ()
) -> tuple[int, ...]:
    """Completion positions that carry loss.

    The first ``skip`` do not, counted from after the first occurrence of ``think_end`` (token ids of a
    think tag's end) where there is one. With ``mask_truncated`` a rollout that was cut carries none.
    """
    if mask_truncated and rollout.finish_reason == "length":
        return ()
    ids = rollout.completion_ids
    start = 0
    width = len(think_end)
    if skip and width:
        places = (at + width for at in range(len(ids) - width + 1) if ids[at : at + width] == tuple(think_end))
        start = next(places, 0)
    return tuple(at for at in range(len(ids)) if not start <= at < start + skip)


def weigh(samples: Sequence[Sample], reduction: Reduction) -> list[Sample]:
    """Gives every sample the weight of its tokens, so that the step's loss is the weighted sum.

    ``rollout_mean``: 1 / (rollouts * tokens of the rollout), the mean over rollouts of each one's mean.
    ``token_mean``: 1 / tokens of all. Rollouts without a loss token have no mean and do not count.
    """
    counts = [len(sample.loss_positions) for sample in samples]
    learning = sum(count > 0 for count in counts)
    total = sum(counts)

    def weight(count: int) -> float:
        if count == 0:
            return 0.0
        return 1.0 / (learning * count) if reduction == "rollout_mean" else 1.0 / total

    return [replace(sample, weight=weight(count)) for sample, count in zip(samples, counts, strict=True)]


def micro_batches(samples: Sequence[Sample], count: int, pad_token_id: int, device: torch.device) -> list[MicroBatch]:
    """Exactly ``count`` micro-batches of samples of like length, the longest first (memory peaks at once).

    Samples without a loss token are left out; a micro-batch may therefore be empty.
    """

    def order(sample: Sample) -> tuple[str, int]:
        return sample.target, -max(sample.student_tokens, sample.teacher_tokens)

    learning = sorted((sample for sample in samples if sample.loss_positions), key=order)
    size = max(1, -(-len(learning) // count))
    groups = [learning[start : start + size] for start in range(0, len(learning), size)]
    groups += [[] for _ in range(count - len(groups))]
    return [_micro_batch(group, pad_token_id, device) for group in groups]


def _micro_batch(samples: list[Sample], pad: int, device: torch.device) -> MicroBatch:
    targets: dict[Target, None] = dict.fromkeys(sample.target for sample in samples)
    parts = (part(target, [s for s in samples if s.target == target], pad, device) for target in targets)
    return MicroBatch(parts=tuple(parts))


def part(target: Target, samples: Sequence[Sample], pad: int, device: torch.device) -> Part:
    """Samples of one target as tensors on ``device``, padded with ``pad``."""
    tokens = [s.rollout.completion_ids[at] for s in samples for at in s.loss_positions]
    weights = [s.weight for s in samples for _ in s.loss_positions]
    logprobs = [lp[at] for s in samples if (lp := s.rollout.logprobs) for at in s.loss_positions]
    compared = target != "tokens"
    return Part(
        target=target,
        samples=tuple(samples),
        student=_scored(samples, lambda sample: sample.pair.student_ids, pad, device),
        teacher=_scored(samples, lambda sample: sample.teacher_ids, pad, device) if compared else None,
        token_ids=torch.tensor(tokens, device=device),
        weights=torch.tensor(weights, device=device),
        sampler_logprobs=torch.tensor(logprobs, device=device) if len(logprobs) == len(tokens) else None,
    )


def _scored(
    samples: Sequence[Sample], prompt: Callable[[Sample], tuple[int, ...]], pad: int, device: torch.device
) -> tuple[Scored, ...]:
    limit = tokens_per_forward(device)
    passes: list[list[Sample]] = []
    width = 0
    for sample in samples:
        length = len(prompt(sample)) + len(sample.rollout.completion_ids) - 1
        widest = max(width, length)
        if not passes or (limit is not None and widest * (len(passes[-1]) + 1) > limit):
            passes.append([])
            widest = length
        passes[-1].append(sample)
        width = widest
    return tuple(_one_pass(group, prompt, pad, device) for group in passes)


def _one_pass(
    samples: list[Sample], prompt: Callable[[Sample], tuple[int, ...]], pad: int, device: torch.device
) -> Scored:
    sequences = [[*prompt(s), *s.rollout.completion_ids[:-1]] for s in samples]
    width = max(map(len, sequences))
    rows = [index * width + len(prompt(s)) - 1 + at for index, s in enumerate(samples) for at in s.loss_positions]
    padded = [ids + [pad] * (width - len(ids)) for ids in sequences]
    return Scored(input_ids=torch.tensor(padded, device=device), rows=torch.tensor(rows, device=device))
