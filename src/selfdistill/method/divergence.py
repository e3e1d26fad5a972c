"""Per-token divergences between a student's and a teacher's next-token distributions.

Everything here is a pure function of tensors. The chunked functions take hidden states and the LM head's weight and
compute the logits of a chunk of rows at a time, so that no tensor of shape [tokens, vocabulary] exists for either
model, forward or backward. If the weights of the tokens in the loss are given, a chunk's gradient is computed along
with its values; otherwise the backward pass computes the logits again.

Notation, per token: p = teacher, q = student, both softmax(transform(hidden @ head.T) / temperature).

======================  =======================================================================
``forward_kl``          KL(p || q) = sum p (log p - log q)     what the paper's results used
``reverse_kl``          KL(q || p) = sum q (log q - log p)     what the paper's text writes
``jsd``                 beta KL(p || m) + (1 - beta) KL(q || m),  m = beta p + (1 - beta) q
======================  =======================================================================

``jsd`` is the generalised Jensen-Shannon divergence (Agarwal et al. 2024, arXiv 2306.13649). At beta 0 and 1 it is
zero, not one of the KLs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selfdistill.method.chunked import GradientFn, by_autograd, chunked
from selfdistill.types import DivergenceKind, Role


def chunked_divergence(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    *,
    kind: DivergenceKind = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_k_of: Role = "teacher",
    tail: bool = False,
    clip: float | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    weights: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Returns the divergence at every token, over the full vocabulary or its top k tokens.

    Args:
        student_hidden: [N, H], the student's last hidden states at the positions that predict the N tokens.
        student_head: [V, H], weight of the student's LM head.
        teacher_hidden: [N, H'], the teacher's hidden states for the same N tokens.
        teacher_head: [V, H'], weight of the teacher's LM head.
        kind: name of the divergence; see the module's table.
        beta: weight of the teacher in ``jsd``, in (0, 1); ignored by the others.
        temperature: both models' logits are divided by it.
        top_k: number of tokens to compare, the most likely ones of ``top_k_of``; None for the full vocabulary. Both
            distributions are renormalised on them, unless ``tail`` adds the rest of the vocabulary as one outcome.
        clip: upper bound of a token's value; a clipped token has no gradient.
        logit_scale: factor on the logits, applied first (Cohere; the inverse of Granite's divisor).
        softcap: then logits become softcap * tanh(logits / softcap) (Gemma 2).
        weights: [N], constant factors on the values. With them gradients are computed in the forward pass, and the
            backward pass accepts only the same gradient for every token, such as that of ``.sum()``.
        chunk_size: rows per chunk; by default what ``chunked.LIMITS`` gives for the device.

    Returns:
        [N] values in nats, times ``weights`` if given, in fp32 (fp64 for fp64 input). Gradients flow to
        ``student_hidden`` and ``student_head`` only.

    Raises:
        ValueError: an argument is out of range, or shapes do not match.
    """
    _check_shapes(student_hidden, student_head, teacher_hidden, teacher_head)
    _check_options(kind, beta, temperature, softcap, clip)
    _check_top_k(top_k, top_k_of)
    support = top_k if top_k is not None and top_k < student_head.shape[0] else None

    def values(_: slice, student_raw: Tensor, teacher_raw: Tensor | None) -> Tensor:
        assert teacher_raw is not None
        student_logits = transform_logits(student_raw, temperature, logit_scale, softcap)
        teacher_logits = transform_logits(teacher_raw, temperature, logit_scale, softcap)
        log_q, log_p = _log_probs(student_logits, teacher_logits, support, top_k_of, tail)
        result = divergence(log_q, log_p, kind=kind, beta=beta)
        return result if clip is None else result.clamp(max=clip)

    closed_form = DIVERGENCES[kind].gradient if support is None and clip is None and softcap is None else None
    gradient = by_autograd(values) if closed_form is None else closed_form(logit_scale / temperature)
    return chunked(values, gradient, student_hidden, student_head, teacher_hidden, teacher_head, weights, chunk_size)


def chunked_sampled_divergence(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    token_ids: Tensor,
    *,
    temperature: float = 1.0,
    clip: float | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    weights: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Estimates the reverse KL from the sampled token alone: log q(y) - log p(y), with y drawn from q.

    The value is an unbiased estimate of KL(q || p) and may be negative. The gradient is the score-function estimate
    (log q(y) - log p(y)) * grad log q(y), with the first factor constant, and is unbiased too. ``token_ids`` is
    [N] int64; ``clip`` bounds the absolute value of the first factor. Other arguments, result and errors are those of
    ``chunked_divergence``.
    """
    _check_shapes(student_hidden, student_head, teacher_hidden, teacher_head)
    _check_options("reverse_kl", 0.5, temperature, softcap, clip)
    _check_token_ids(token_ids, student_hidden)

    def values(rows: slice, student_raw: Tensor, teacher_raw: Tensor | None) -> Tensor:
        assert teacher_raw is not None
        target = token_ids[rows, None]
        student_logits = transform_logits(student_raw, temperature, logit_scale, softcap)
        teacher_logits = transform_logits(teacher_raw, temperature, logit_scale, softcap)
        log_q = student_logits.log_softmax(-1).gather(-1, target).squeeze(-1)
        log_p = teacher_logits.log_softmax(-1).gather(-1, target).squeeze(-1)
        ratio = (log_q - log_p).detach()
        if clip is not None:
            ratio = ratio.clamp(-clip, clip)
        return ratio + ratio * (log_q - log_q.detach())  # the second term is 0 and carries the gradient

    gradient = by_autograd(values)
    return chunked(values, gradient, student_hidden, student_head, teacher_hidden, teacher_head, weights, chunk_size)


def chunked_logprobs(
    hidden: Tensor,
    head: Tensor,
    token_ids: Tensor,
    *,
    temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    weights: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Returns the log-probability in nats of ``token_ids`` [N] int64 under softmax(transform(hidden @ head.T) / T).

    ``hidden`` is [N, H], ``head`` [V, H], T the temperature. Other arguments, result and errors are those of
    ``chunked_divergence``. The negative is the cross-entropy.
    """
    _check_options("forward_kl", 0.5, temperature, softcap, None)
    _check_token_ids(token_ids, hidden)

    def values(rows: slice, raw: Tensor, _: Tensor | None) -> Tensor:
        logits = transform_logits(raw, temperature, logit_scale, softcap)
        return logits.gather(-1, token_ids[rows, None]).squeeze(-1) - logits.logsumexp(-1)

    return chunked(values, by_autograd(values), hidden, head, None, None, weights, chunk_size)


def divergence(
    student_log_probs: Tensor, teacher_log_probs: Tensor, *, kind: DivergenceKind, beta: float = 0.5
) -> Tensor:
    """Returns the divergence ``kind`` [...] of log-probabilities [..., V], in nats.

    An outcome with probability 0 (log-probability -inf) contributes 0, the limit of x log x. A KL is infinite if its
    second distribution gives probability 0 to an outcome of the first.
    """
    spec = DIVERGENCES[kind]
    parameters = {"beta": beta}
    return spec.values(student_log_probs, teacher_log_probs, **{name: parameters[name] for name in spec.parameters})


def forward_kl(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """KL(p || q), [..., V] to [...]."""
    return _kl(teacher_log_probs, student_log_probs)


def reverse_kl(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """KL(q || p), [..., V] to [...]."""
    return _kl(student_log_probs, teacher_log_probs)


def jsd(student_log_probs: Tensor, teacher_log_probs: Tensor, *, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence, [..., V] to [...]; ``beta`` is the weight of the teacher."""
    log_mixture = _log_mixture(teacher_log_probs, student_log_probs, beta)
    return beta * _kl(teacher_log_probs, log_mixture) + (1 - beta) * _kl(student_log_probs, log_mixture)


def forward_kl_gradient(scale: float) -> GradientFn:
    """Returns a function for KL(p || q) and its gradient scale * (q - p); logits are scale * raw logits, all finite."""

    def gradient(_: slice, student_raw: Tensor, teacher_raw: Tensor | None) -> tuple[Tensor, Tensor]:
        assert teacher_raw is not None
        log_q = student_raw.mul_(scale).log_softmax(-1)
        log_p = teacher_raw.mul_(scale).log_softmax(-1)
        p = log_p.exp()
        out = (p * log_p.sub_(log_q)).sum(-1)
        return out, log_q.exp_().sub_(p).mul_(scale)

    return gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceSpec:
    """A way to compare two next-token distributions."""

    values: Callable[..., Tensor]
    """Maps the student's and the teacher's log-probabilities [..., V], and ``parameters`` by name, to values [...]."""
    parameters: tuple[str, ...] = ()
    """Names of the settings ``divergence_<name>`` that it takes, such as ``beta``."""
    gradient: Callable[[float], GradientFn] | None = None
    """Makes the closed-form gradient over the full vocabulary from the factor on raw logits. None: use autograd."""


DIVERGENCES: dict[DivergenceKind, DivergenceSpec] = {
    "forward_kl": DivergenceSpec(values=forward_kl, gradient=forward_kl_gradient),
    "reverse_kl": DivergenceSpec(values=reverse_kl),
    "jsd": DivergenceSpec(values=jsd, parameters=("beta",)),
}
"""The divergences by name. To add one, add a function and a row here, and its name to ``types.DivergenceKind``."""


def transform_logits(raw: Tensor, temperature: float, logit_scale: float, softcap: float | None) -> Tensor:
    """Applies scale, soft cap and temperature to raw logits (hidden @ head.T), [n, V] to [n, V]."""
    logits = raw if logit_scale == 1.0 else raw * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits if temperature == 1.0 else logits / temperature


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b), [..., V] to [...]. The inner ``where`` avoids 0 * (-inf) in the value and the gradient."""
    a = log_a.exp()
    return (a * torch.where(a > 0, log_a - log_b, 0.0)).sum(-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """log(beta p + (1 - beta) q), [..., V]; exactly log p where p = q.

    Computed as log a + log(1 + w (b / a - 1)), where a is the larger of the two probabilities, b the smaller, and w the
    weight of b.
    """
    p_leads = log_p >= log_q
    larger = torch.where(p_leads, log_p, log_q)
    smaller = torch.where(p_leads, log_q, log_p)
    shrink = torch.where(larger > -math.inf, smaller - larger, 0.0).expm1()
    return larger + torch.where(p_leads, (1 - beta) * shrink, beta * shrink).log1p()


def _log_probs(
    student_logits: Tensor, teacher_logits: Tensor, support: int | None, top_k_of: Role, tail: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student and teacher [n, V], or of the ``support`` most likely tokens (``_restrict``)."""
    if support is None:
        return student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    chosen = teacher_logits if top_k_of == "teacher" else student_logits.detach()
    index = chosen.topk(support, dim=-1).indices
    return _restrict(student_logits, index, tail), _restrict(teacher_logits, index, tail)


def _restrict(logits: Tensor, index: Tensor, tail: bool) -> Tensor:
    """Log-probabilities [n, k] of the tokens ``index`` [n, k], renormalised. With ``tail`` [n, k + 1], not
    renormalised; the last column is the rest of the vocabulary."""
    kept = logits.gather(-1, index)
    if not tail:
        return kept.log_softmax(-1)
    rest = logits.scatter(-1, index, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([kept, rest], dim=-1) - logits.logsumexp(-1, keepdim=True)


def _check_shapes(student_hidden: Tensor, student_head: Tensor, teacher_hidden: Tensor, teacher_head: Tensor) -> None:
    if student_hidden.shape[0] != teacher_hidden.shape[0]:
        raise ValueError(
            f"student_hidden has {student_hidden.shape[0]} rows and teacher_hidden {teacher_hidden.shape[0]}: "
            "both must be for the same tokens"
        )
    if student_head.shape[0] != teacher_head.shape[0]:
        raise ValueError(
            f"the student's vocabulary has {student_head.shape[0]} entries and the teacher's {teacher_head.shape[0]}"
        )
    for who, hidden, head in (("student", student_hidden, student_head), ("teacher", teacher_hidden, teacher_head)):
        if hidden.shape[1:] != head.shape[1:]:
            raise ValueError(f"{who}_hidden {tuple(hidden.shape)} and {who}_head {tuple(head.shape)} disagree on H")


def _check_token_ids(token_ids: Tensor, hidden: Tensor) -> None:
    if token_ids.shape != hidden.shape[:1]:
        raise ValueError(f"token_ids {tuple(token_ids.shape)} and hidden {tuple(hidden.shape)} disagree on N")


def _check_top_k(top_k: int | None, top_k_of: str) -> None:
    if top_k_of not in ("teacher", "student"):
        raise ValueError(f"top_k_of must be teacher or student, not {top_k_of!r}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")


def _check_options(kind: str, beta: float, temperature: float, softcap: float | None, clip: float | None) -> None:
    if kind not in DIVERGENCES:
        raise ValueError(f"kind must be one of {', '.join(DIVERGENCES)}, not {kind!r}")
    if "beta" in DIVERGENCES[kind].parameters and not 0 < beta < 1:
        raise ValueError(f"beta must lie strictly between 0 and 1, not {beta}: the divergence is zero at both ends")
    for name, value in (("temperature", temperature), ("softcap", softcap), ("clip", clip)):
        if value is not None and not value > 0:  # NaN, too
            raise ValueError(f"{name} must be positive, not {value}")
