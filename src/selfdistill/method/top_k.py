"""The divergence from a teacher of whom only the likeliest tokens are known, such as one behind a server.

Notation, per token: p = teacher, q = student, S the k tokens that are likeliest by p. With the tail both are
distributions over k + 1 outcomes, the tokens of S and all others together; without it both are renormalised on S. The
values are those of ``divergence.chunked_divergence`` with ``top_k`` and a teacher that is at hand; its logits are never
made.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from selfdistill.method.chunked import by_autograd, chunked
from selfdistill.method.divergence import check_options, divergence, restricted, transform_logits
from selfdistill.types import DivergenceKind

LEAST_TAIL = 1e-6
"""Probability that the tail has at least: 1 minus a sum of probabilities is no more exact, where their logarithms are
fp32."""


def chunked_top_k_divergence(
    student_hidden: Tensor,
    student_head: Tensor,
    ids: Tensor,
    log_probs: Tensor,
    *,
    kind: DivergenceKind = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    tail: bool = True,
    clip: float | None = None,
    vocab_clip: float | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    weights: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Returns the divergence at every token over the teacher's k likeliest tokens.

    Args:
        student_hidden: [N, H], the student's last hidden states at the positions that predict the N tokens.
        student_head: [V, H], weight of the student's LM head.
        ids: [N, k] int64, the teacher's likeliest tokens, each once.
        log_probs: [N, k], their log-probabilities in nats at temperature 1, over the whole vocabulary.
        temperature: both models' logits are divided by it. With ``tail`` it is 1: what the others' probabilities add
            up to at another one does not follow from their sum.
        tail: compare all other tokens together as one more outcome, instead of renormalising the k.

    The other arguments, the result and its gradients are those of ``divergence.chunked_divergence``.

    Raises:
        ValueError: an argument is out of range, or shapes do not match.
    """
    if ids.shape != log_probs.shape or ids.ndim != 2 or len(ids) != len(student_hidden):
        raise ValueError(
            f"ids {tuple(ids.shape)} and log_probs {tuple(log_probs.shape)} must be [N, k] for the "
            f"{len(student_hidden)} rows of student_hidden"
        )
    if not 0 < ids.shape[1] < len(student_head):
        raise ValueError(f"k must be at least 1 and below the vocabulary's {len(student_head)}, not {ids.shape[1]}")
    if tail and temperature != 1:
        raise ValueError(f"temperature must be 1 with a tail, not {temperature}")
    check_options(kind, beta, temperature=temperature, softcap=softcap, clip=clip, vocab_clip=vocab_clip)
    teacher = with_tail(log_probs) if tail else (log_probs / temperature).log_softmax(-1)

    def values(rows: slice, student_raw: Tensor, _: Sequence[Tensor]) -> Tensor:
        logits = transform_logits(student_raw, temperature, logit_scale, softcap)
        log_q = restricted(logits, ids[rows], tail)
        result = divergence(log_q, teacher[rows].to(log_q.dtype), kind=kind, beta=beta, vocab_clip=vocab_clip)
        return result if clip is None else result.clamp(max=clip)

    return chunked(values, by_autograd(values), student_hidden, student_head, (), weights, chunk_size)


def with_tail(log_probs: Tensor) -> Tensor:
    """Log-probabilities [N, k] with one more column, that of all other tokens together, at least ``LEAST_TAIL``."""
    rest = 1 - log_probs.exp().sum(-1, keepdim=True)
    return torch.cat([log_probs, rest.clamp(min=LEAST_TAIL).log()], dim=-1)
