"""What a model says of the loss tokens: hidden states with the output head, and functions of the logits they make."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfdistill.method.batch import Part, Sample, Scored, part
from selfdistill.method.divergence import chunked_divergence, chunked_logprobs, chunked_sampled_divergence
from selfdistill.models.output_head import HeadTransform, decoder, head_transform, output_head
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair, Rollout, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """A model's next-token distributions at N positions, before they are multiplied out to logits."""

    hidden: Tensor
    """[N, H], last hidden states."""
    head: Tensor
    """[V, H], the output head's weight: the parameter itself, so that gradients reach it."""
    transform: HeadTransform
    """From hidden @ head.T to logits."""

    def detach(self) -> "Predictions":
        """The same, outside any graph."""
        return replace(self, hidden=self.hidden.detach(), head=self.head.detach())


def predictions(model: PreTrainedModel, passes: Sequence[Scored]) -> Predictions:
    """What ``model``, with the weights now in it, predicts at the loss positions of all passes."""
    body = decoder(model)
    outputs = [body(input_ids=scored.input_ids, use_cache=False).last_hidden_state for scored in passes]
    hidden = torch.cat([out.flatten(0, 1)[scored.rows] for out, scored in zip(outputs, passes, strict=True)])
    return Predictions(hidden=hidden, head=output_head(model), transform=head_transform(model.config))


def logprobs(
    predicted: Predictions, token_ids: Tensor, *, temperature: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """Log-probability in nats of ``token_ids`` [N] int64, times ``weights`` [N] if given; [N], fp32 at least."""
    return chunked_logprobs(
        predicted.hidden,
        predicted.head,
        token_ids,
        temperature=temperature,
        logit_scale=predicted.transform.scale,
        softcap=predicted.transform.softcap,
        weights=weights,
    )


def divergences(
    student: Predictions,
    teacher: Predictions,
    token_ids: Tensor,
    config: MethodConfig,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """The settings' divergence at every token [N], in nats, times ``weights`` [N] if given; [N], fp32 at least.

    Gradients flow to the student only. ``token_ids`` [N] int64 counts with ``divergence_support=sampled`` only.
    """
    shared: dict[str, Any] = {
        "temperature": config.temperature,
        "clip": config.divergence_clip,
        "logit_scale": student.transform.scale,
        "softcap": student.transform.softcap,
        "weights": weights,
    }
    sides = (student.hidden, student.head, teacher.hidden, teacher.head)
    if config.divergence_support == "sampled":
        return chunked_sampled_divergence(*sides, token_ids, **shared)
    return chunked_divergence(
        *sides,
        kind=config.divergence,
        beta=config.divergence_beta,
        top_k=config.divergence_top_k if config.divergence_support == "top_k" else None,
        top_k_of=config.divergence_top_k_of,
        tail=config.divergence_tail,
        **shared,
    )


def importance_weights(trainer: Tensor, sampler: Tensor, counts: Sequence[int], cap: float) -> Tensor:
    """exp(trainer's - sampler's logprob) of every loss token [N], at most ``cap``, averaged over each rollout.

    ``counts`` are the rollouts' numbers of loss tokens, N in all. Truncated importance sampling, as in the paper.
    """
    ratios = (trainer - sampler).exp().clamp(max=cap)
    return torch.cat([ratio.mean().expand_as(ratio) for ratio in ratios.split(list(counts))])


def whole_sample(pair: PromptPair, rollout: Rollout, target: Target = "teacher") -> Sample:
    """A completion every token of which is looked at."""
    positions = tuple(range(len(rollout.completion_ids)))
    return Sample(pair=pair, rollout=rollout, target=target, loss_positions=positions)


def in_parts(
    samples: Sequence[Sample], pad_token_id: int, device: torch.device, batch_size: int = 16
) -> Iterator[tuple[list[int], Part]]:
    """Samples of one target as tensors, at most ``batch_size`` of like length at a time, with their indices.

    Samples without a loss token are left out.
    """
    indices = sorted(
        (index for index, sample in enumerate(samples) if sample.loss_positions),
        key=lambda index: -max(samples[index].student_tokens, samples[index].teacher_tokens),
    )
    size = max(1, -(-len(indices) // max(1, -(-len(samples) // batch_size))))
    for start in range(0, len(indices), size):
        chosen = indices[start : start + size]
        yield chosen, part(samples[chosen[0]].target, [samples[index] for index in chosen], pad_token_id, device)


@torch.no_grad()
def token_divergences(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    pairs: Sequence[PromptPair],
    rollouts: Sequence[Rollout],
    *,
    pad_token_id: int,
    batch_size: int = 16,
) -> list[Tensor]:
    """Forward KL, KL(teacher||student), at every token of given completions; nothing is trained.

    The student reads ``student_ids``, the teacher ``teacher_ids``. Returns one fp32 tensor [completion
    length] in nats for each completion, in order; an empty completion gives an empty one.
    """
    samples = [whole_sample(pair, rollout) for pair, rollout in zip(pairs, rollouts, strict=True)]
    values = [torch.zeros(0) for _ in samples]
    plain = MethodConfig()
    for indices, each in in_parts(samples, pad_token_id, student.device, batch_size):
        assert each.teacher is not None
        found = divergences(
            predictions(student, each.student), predictions(teacher, each.teacher), each.token_ids, plain
        )
        for index, piece in zip(indices, found.split(each.counts), strict=True):
            values[index] = piece.float().cpu()
    return values
