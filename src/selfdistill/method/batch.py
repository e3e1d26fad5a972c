"""Turns rollouts into tensors: the positions that predict loss tokens, and each token's weight in the loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selfdistill.types import PromptPair, Reduction, Rollout, Target, Writer

CPU_TOKENS_PER_FORWARD = 1536
"""Tokens in one forward pass on a CPU. With more, hidden states no longer fit the CPU's cache, and padding grows."""

COMPARED: tuple[Target, ...] = ("teacher", "start")
"""Targets that are a model's predictions, in the order in which they are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the teacher was shown beside the question, where that depends on the completions."""

    left_out: bool
    """Whether something was left out, because the prompt would have been over its limit."""
    untaught: bool
    """Whether it knew no more than the student."""
    own_success: bool | None = None
    """Whether the demonstration is another completion of the prompt; None if it can't be."""
    prompt_succeeded: bool | None = None
    """Whether one of the prompt's completions succeeded; None if they are not scored."""
    score: float | None = None
    """The completion's score; None if it has none."""
    feedback: bool | None = None
    """Whether it was shown words about the completion; None if there never are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt with its completion, and the positions of the tokens that carry loss."""

    pair: PromptPair
    rollout: Rollout
    loss_positions: tuple[int, ...]
    """Completion positions that carry loss, in ascending order; may be empty."""
    target: Target
    writer: Writer = "student"
    """Who wrote the completion."""
    mixed: bool = False
    """Whether it is one of a mixture, in which others than the student write a share."""
    shown: Shown | None = None
    """What the teacher was shown, if that depends on the completions."""
    weight: float = 0.0
    """Weight of each loss token of this sample in the step's loss."""
    other_ids: tuple[int, ...] | None = None
    """Token ids of the teacher's prompt with another row's demonstration; None if the target does not read it."""

    @property
    def teacher_ids(self) -> tuple[int, ...]:
        """Token ids of the teacher's prompt, or of the student's if it has none of its own."""
        return self.pair.student_ids if self.pair.teacher_ids is None else self.pair.teacher_ids

    @property
    def student_tokens(self) -> int:
        """Tokens that the student reads in training: prompt and completion."""
        return len(self.pair.student_ids) + len(self.rollout.completion_ids)

    @property
    def teacher_tokens(self) -> int:
        """Tokens that the teacher reads: prompt and completion; 0 if nothing is compared with a teacher."""
        return 0 if self.target == "tokens" else len(self.teacher_ids) + len(self.rollout.completion_ids)

    @property
    def other_tokens(self) -> int:
        """Tokens that the teacher reads with another row's demonstration: prompt and completion."""
        return 0 if self.other_ids is None else len(self.other_ids) + len(self.rollout.completion_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Right-padded sequences for one forward pass, and the N positions in them whose next token carries loss.

    No attention mask is needed, because padding comes last and attention is causal.
    """

    input_ids: Tensor
    """[B, T] int64: prompt and completion, without the last token."""
    rows: Tensor
    """[N] int64: indices into the flattened [B * T] positions whose hidden states predict the loss tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeliest:
    """A teacher's k likeliest next tokens at N positions, where that is all that is known of its predictions."""

    ids: Tensor
    """[N, k] int64: each token once."""
    log_probs: Tensor
    """[N, k] fp32: in nats at temperature 1, over the whole vocabulary."""


def tokens_per_forward(device: torch.device) -> int | None:
    """Maximum number of tokens, with padding, in one forward pass; None for no limit."""
    return CPU_TOKENS_PER_FORWARD if device.type == "cpu" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The samples of a micro-batch that have the same target, as tensors; N is the number of their loss tokens."""

    target: Target
    samples: tuple[Sample, ...]
    student: tuple[Scored, ...]
    """The samples in order, split into forward passes of at most ``tokens_per_forward`` tokens."""
    teacher: tuple[Scored, ...] | None
    """The same completions after the teacher's prompts; None if nothing is compared with a teacher."""
    token_ids: Tensor
    """[N] int64: the loss tokens, sample by sample."""
    weights: Tensor
    """[N] fp32: each token's weight in the step's loss."""
    sampler_logprobs: Tensor | None
    """[N] fp32: the sampler's logprobs of the loss tokens in nats; None if the engine reported none."""
    other: tuple[Scored, ...] | None = None
    """The same completions after the prompts with another row's demonstration; None if the target reads none."""
    teacher_hidden: Tensor | None = None
    """[N, H']: the teacher's last hidden states for the loss tokens; None until it has scored the part."""
    teacher_head: Tensor | None = None
    """[V, H']: the weight of the teacher's output head; None until it has scored the part."""
    references: tuple[tuple[Tensor, Tensor], ...] = ()
    """The same two of every other model that the target reads, in the target's order."""
    likeliest: Likeliest | None = None
    """In place of hidden states and head, what a teacher behind a server predicts for the loss tokens."""

    @property
    def counts(self) -> list[int]:
        """Number of loss tokens of each sample; they add up to N."""
        return [len(sample.loss_positions) for sample in self.samples]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Samples whose gradients are computed together, by target."""

    parts: tuple[Part, ...]

    @property
    def samples(self) -> list[Sample]:
        """All samples, part by part."""
        return [sample for part in self.parts for sample in part.samples]


def loss_positions(
    rollout: Rollout, *, skip: int = 0, mask_truncated: bool = False, think_end: Sequence[int] = ()
) -> tuple[int, ...]:
    """Returns the completion positions that carry loss.

    Args:
        rollout: the completion.
        skip: number of tokens without loss: the first ones, or those after the first ``think_end`` if it occurs.
        mask_truncated: leave out all tokens of a rollout that was cut at the token limit.
        think_end: token ids of the tag that ends a thinking model's thoughts; empty for none.
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


def weigh(
    samples: Sequence[Sample], reduction: Reduction, totals: Callable[..., Sequence[float]] = lambda *own: own
) -> list[Sample]:
    """Returns the samples with the weight of their tokens set, so that the step's loss is the weighted sum.

    ``rollout_mean``: 1 / (rollouts * loss tokens of the rollout): the mean over rollouts of each one's mean.
    ``token_mean``: 1 / all loss tokens. Rollouts without loss tokens have weight 0 and are not counted.

    Args:
        samples: those of a step that are at hand.
        reduction: one of the two above.
        totals: from the numbers of rollouts and of tokens with loss among ``samples`` to those of the whole step.
    """
    counts = [len(sample.loss_positions) for sample in samples]
    learning, total = totals(sum(count > 0 for count in counts), sum(counts))

    def weight(count: int) -> float:
        if count == 0:
            return 0.0
        return 1.0 / (learning * count) if reduction == "rollout_mean" else 1.0 / total

    return [replace(sample, weight=weight(count)) for sample, count in zip(samples, counts, strict=True)]


def micro_batches(samples: Sequence[Sample], count: int, pad_token_id: int, device: torch.device) -> list[MicroBatch]:
    """Returns exactly ``count`` micro-batches. Samples are grouped by target, then by length, the longest first.

    Samples without a loss token are left out, so a micro-batch may be empty.
    """

    def order(sample: Sample) -> tuple[str, int]:
        return sample.target, -max(sample.student_tokens, sample.teacher_tokens)

    learning = sorted((sample for sample in samples if sample.loss_positions), key=order)
    size = max(1, -(-len(learning) // count))
    groups = [learning[start : start + size] for start in range(0, len(learning), size)]
    groups += [[] for _ in range(count - len(groups))]
    return [_micro_batch(group, pad_token_id, device) for group in groups]


def halved(micro_batch: MicroBatch, pad_token_id: int, device: torch.device) -> MicroBatch:
    """The micro-batch with each part in two, which forward and backward passes take one after the other.

    The weights of the tokens, and what other models have scored, stay. A part of one sample stays as it is.
    """
    pieces = (half for whole in micro_batch.parts for half in _halves(whole, pad_token_id, device))
    return MicroBatch(parts=tuple(pieces))


def _halves(whole: Part, pad: int, device: torch.device) -> list[Part]:
    samples = whole.samples
    middle, tokens = len(samples) // 2, sum(whole.counts[: len(samples) // 2])
    if not middle:
        return [whole]
    halves: list[Part] = []
    for chosen, place in ((samples[:middle], slice(None, tokens)), (samples[middle:], slice(tokens, None))):
        half = part(whole.target, chosen, pad, device)
        if whole.teacher_hidden is not None:
            half = replace(
                half,
                teacher_hidden=whole.teacher_hidden[place],
                teacher_head=whole.teacher_head,
                references=tuple((hidden[place], head) for hidden, head in whole.references),
            )
        if (scored := whole.likeliest) is not None:
            half = replace(half, likeliest=Likeliest(ids=scored.ids[place], log_probs=scored.log_probs[place]))
        halves.append(half)
    return halves


def _micro_batch(samples: list[Sample], pad: int, device: torch.device) -> MicroBatch:
    targets: dict[Target, None] = dict.fromkeys(sample.target for sample in samples)
    parts = (part(target, [s for s in samples if s.target == target], pad, device) for target in targets)
    return MicroBatch(parts=tuple(parts))


def part(target: Target, samples: Sequence[Sample], pad: int, device: torch.device) -> Part:
    """Converts samples that share a target to tensors on ``device``, padded with the token id ``pad``."""
    tokens = [s.rollout.completion_ids[at] for s in samples for at in s.loss_positions]
    weights = [s.weight for s in samples for _ in s.loss_positions]
    logprobs = [lp[at] for s in samples if (lp := s.rollout.logprobs) for at in s.loss_positions]
    compared = target in COMPARED
    return Part(
        target=target,
        samples=tuple(samples),
        student=_scored(samples, lambda sample: sample.pair.student_ids, pad, device),
        teacher=_scored(samples, lambda sample: sample.teacher_ids, pad, device) if compared else None,
        token_ids=torch.tensor(tokens, device=device),
        weights=torch.tensor(weights, device=device),
        sampler_logprobs=torch.tensor(logprobs, device=device) if len(logprobs) == len(tokens) else None,
        other=_scored(samples, _other_ids, pad, device) if all(s.other_ids for s in samples) else None,
    )


def _other_ids(sample: Sample) -> tuple[int, ...]:
    assert sample.other_ids is not None
    return sample.other_ids


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
