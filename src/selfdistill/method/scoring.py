"""Predictions of a model at the loss tokens, as hidden states and output head, and functions of their logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfdistill.method.batch import Likeliest, Part, Sample, Scored, part
from selfdistill.method.divergence import (
    ChunkTarget,
    chunked_divergence,
    chunked_logprobs,
    chunked_sampled_divergence,
)
from selfdistill.method.targets import TARGETS
from selfdistill.method.token_weights import chunked_entropies, token_weights
from selfdistill.method.top_k import chunked_top_k_divergence
from selfdistill.models.output_head import HeadTransform, decoder, head_transform, output_head
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair, Rollout, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """A model's next-token distributions at N positions, in the factors that give the logits."""

    hidden: Tensor
    """[N, H]: last hidden states, in the model's dtype."""
    head: Tensor
    """[V, H]: the output head's weight. It is the parameter itself, so that gradients reach it."""
    transform: HeadTransform
    """Maps hidden @ head.T to logits."""

    def detach(self) -> "Predictions":
        """The same predictions, without a gradient."""
        return replace(self, hidden=self.hidden.detach(), head=self.head.detach())


def predictions(model: PreTrainedModel, passes: Sequence[Scored]) -> Predictions:
    """Runs ``model`` on all passes and returns its predictions at their loss positions."""
    body = decoder(model)
    outputs = [body(input_ids=scored.input_ids, use_cache=False).last_hidden_state for scored in passes]
    hidden = torch.cat([out.flatten(0, 1)[scored.rows] for out, scored in zip(outputs, passes, strict=True)])
    return Predictions(hidden=hidden, head=output_head(model), transform=head_transform(model.config))


def logprobs(
    predicted: Predictions, token_ids: Tensor, *, temperature: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """Returns the log-probability in nats of ``token_ids`` [N] int64, times ``weights`` [N] if given.

    The result is [N], in fp32 (fp64 for fp64 predictions), with gradients.
    """
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
    teacher: Predictions | Likeliest,
    token_ids: Tensor,
    config: MethodConfig,
    *,
    target: ChunkTarget | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Returns the divergence that the settings name at every token, in nats, times ``weights`` [N] if given.

    The result is [N], in fp32 (fp64 for fp64 predictions). Gradients flow to the student only. ``token_ids`` [N] int64
    are used only with ``divergence_support=sampled``. ``target`` takes the place of a teacher that is at hand.
    """
    shared: dict[str, Any] = {
        "temperature": config.temperature,
        "clip": config.divergence_clip,
        "logit_scale": student.transform.scale,
        "softcap": student.transform.softcap,
        "weights": weights,
    }
    exact: dict[str, Any] = {
        "kind": config.divergence,
        "beta": config.divergence_beta,
        "tail": config.divergence_tail,
        "vocab_clip": config.vocab_clip,
    }
    if isinstance(teacher, Likeliest):
        known = (teacher.ids, teacher.log_probs)
        return chunked_top_k_divergence(student.hidden, student.head, *known, **exact, **shared)
    sides = (student.hidden, student.head, teacher.hidden, teacher.head)
    if config.divergence_support == "sampled":
        return chunked_sampled_divergence(*sides, token_ids, target=target, **shared)
    return chunked_divergence(
        *sides,
        top_k=config.divergence_top_k if config.divergence_support == "top_k" else None,
        top_k_of=config.divergence_top_k_of,
        target=target,
        **exact,
        **shared,
    )


def chosen_target(config: MethodConfig, references: Sequence[tuple[Tensor, Tensor]]) -> ChunkTarget | None:
    """Returns the target that the settings name; None for the teacher itself.

    ``references``: hidden states [N, H'] and head [V, H'] of every other model that the target reads, in its order.
    """
    spec = TARGETS[config.target]
    if spec.log_probs is None:
        return None
    numbers = {name: getattr(config, f"target_{name}") for name in spec.parameters}
    return ChunkTarget(log_probs=partial(spec.log_probs, **numbers), references=references)


def chosen_token_weights(
    part: Part, student: Predictions, teacher: Predictions | Likeliest, config: MethodConfig
) -> Tensor | None:
    """Returns the weights [N] that the settings give to the tokens of a part, without gradients; None if all are 1.
    Those that read the teacher's predictions take a teacher that is at hand."""

    def own(predicted: Predictions | Likeliest) -> Tensor:
        assert isinstance(predicted, Predictions)
        return logprobs(predicted.detach(), part.token_ids, temperature=config.temperature)

    def entropies() -> Tensor:
        assert isinstance(teacher, Predictions)
        transform = teacher.transform
        return chunked_entropies(
            teacher.hidden,
            teacher.head,
            temperature=config.temperature,
            logit_scale=transform.scale,
            softcap=transform.softcap,
        )

    places = [at for sample in part.samples for at in sample.loss_positions]
    known = {
        "teacher_logprobs": lambda: own(teacher),
        "student_logprobs": lambda: own(student),
        "counts": lambda: part.counts,
        "positions": lambda: torch.tensor(places, dtype=torch.float32, device=part.token_ids.device),
        "half_life": lambda: config.token_weight_half_life,
        "entropies": entropies,
    }
    return token_weights(config.token_weight, known)


def importance_weights(trainer: Tensor, sampler: Tensor, counts: Sequence[int], cap: float) -> Tensor:
    """Returns truncated importance weights [N], as in the paper: each rollout's mean over its loss tokens of
    min(exp(trainer - sampler), cap).

    Args:
        trainer: [N] logprobs of the loss tokens under the trained weights, in nats.
        sampler: [N] logprobs under the weights that sampled, in nats.
        counts: number of loss tokens of each rollout; they add up to N.
        cap: upper bound on each token's ratio.
    """
    ratios = (trainer - sampler).exp().clamp(max=cap)
    return torch.cat([ratio.mean().expand_as(ratio) for ratio in ratios.split(list(counts))])


def whole_sample(pair: PromptPair, rollout: Rollout, target: Target = "teacher") -> Sample:
    """Makes a sample in which every completion token carries loss."""
    positions = tuple(range(len(rollout.completion_ids)))
    return Sample(pair=pair, rollout=rollout, target=target, loss_positions=positions)


def in_parts(
    samples: Sequence[Sample], pad_token_id: int, device: torch.device, batch_size: int = 16
) -> Iterator[tuple[list[int], Part]]:
    """Yields samples that share a target as tensors, with their indices, ``batch_size`` at most, the longest first.

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
    """Returns the forward KL, KL(teacher||student), in nats at every token of given completions, without gradients.

    The student reads ``student_ids``, the teacher ``teacher_ids``, in the modes that the models are in. The result has
    one fp32 tensor [completion length] on the CPU per completion, in order.
    """
    samples = [whole_sample(pair, rollout) for pair, rollout in zip(pairs, rollouts, strict=True)]
    values = [torch.zeros(0) for _ in samples]
    plain = MethodConfig()
    for indices, batch in in_parts(samples, pad_token_id, student.device, batch_size):
        assert batch.teacher is not None
        per_token = divergences(
            predictions(student, batch.student), predictions(teacher, batch.teacher), batch.token_ids, plain
        )
        for index, of_sample in zip(indices, per_token.split(batch.counts), strict=True):
            values[index] = of_sample.float().cpu()
    return values
