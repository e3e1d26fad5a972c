"""Hidden states of scored sequences, and per-token divergence between two sets of weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfdistill.method.batch import Sample, Scored, micro_batches
from selfdistill.method.divergence import chunked_divergence
from selfdistill.models.output_head import decoder, head_transform, output_head
from selfdistill.types import PromptPair, Rollout


def hidden_states(model: PreTrainedModel, passes: Sequence[Scored]) -> Tensor:
    """Last hidden states [N, H] that predict the loss tokens, under the weights now in ``model``."""
    body = decoder(model)
    outputs = [body(input_ids=scored.input_ids, use_cache=False).last_hidden_state for scored in passes]
    return torch.cat([out.flatten(0, 1)[scored.rows] for out, scored in zip(outputs, passes, strict=True)])


def importance_weights(logprobs: Tensor, sampler_logprobs: Tensor, counts: Sequence[int], cap: float) -> Tensor:
    """exp(trainer's - sampler's logprob) of every loss token [N], at most ``cap``, averaged over each rollout.

    ``counts`` are the rollouts' numbers of loss tokens, N in all. Truncated importance sampling, as in the paper.
    """
    ratios = (logprobs - sampler_logprobs).exp().clamp(max=cap)
    return torch.cat([ratio.mean().expand_as(ratio) for ratio in ratios.split(list(counts))])


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
    samples = [
        Sample(pair=pair, rollout=rollout, target="teacher", loss_positions=tuple(range(len(rollout.completion_ids))))
        for pair, rollout in zip(pairs, rollouts, strict=True)
    ]
    place = {id(sample): index for index, sample in enumerate(samples)}
    values = [torch.zeros(0) for _ in samples]
    transform = head_transform(student.config)
    batches = micro_batches(samples, max(1, -(-len(samples) // batch_size)), pad_token_id, student.device)
    for part in (part for batch in batches for part in batch.parts):
        assert part.teacher is not None
        per_token = chunked_divergence(
            hidden_states(student, part.student),
            output_head(student),
            hidden_states(teacher, part.teacher),
            output_head(teacher),
            logit_scale=transform.scale,
            softcap=transform.softcap,
        )
        pieces = per_token.split([len(sample.loss_positions) for sample in part.samples])
        for sample, piece in zip(part.samples, pieces, strict=True):
            values[place[id(sample)]] = piece.float().cpu()
    return values
