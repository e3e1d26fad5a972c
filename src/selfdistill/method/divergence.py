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
zero, not one of the KLs. With a ``ChunkTarget`` (``method.targets``) p is another constant distribution than the
teacher's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfdistill.method.chunked import GradientFn, by_autograd, chunked
from selfdistill.types import DivergenceKind, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTarget:
    """A distribution that takes the teacher's place. It is constant in the gradient."""

    log_probs: Callable[..., Tensor]
    """Maps the log-probabilities [n, V] of student, teacher and ``references`` to the target's, in a new tensor."""
    references: Sequence[tuple[Tensor, Tensor]] = ()
    """Hidden states [N, H'] and head [V, H'] of the other models that it reads."""


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
    vocab_clip: float | None = None,
    target: ChunkTarget | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    weights: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Returns the divergence at every token, over the full vocabulary or its top k tokens.

    Args:
        student_hidden: [N, H], the student's last hidden states at the positions that predict the N tokens.
        student_head: [V, H], weight of the student's LM head.
        teacher_hidden, teacher_head: [N, H'] and [V, H'], the teacher's for the same N tokens.
        kind: name of the divergence; see the module's table.
        beta: weight of the teacher in ``jsd``, in (0, 1).
        temperature: both models' logits are divided by it.
        top_k: number of tokens to compare, the likeliest of ``top_k_of``; None for all. Both distributions are
            renormalised on them, unless ``tail`` adds the rest of the vocabulary as one outcome.
        clip: upper bound of a token's value; a clipped token has no gradient.
        vocab_clip: upper bound of each of ``DivergenceSpec.terms``.
        target: what takes the teacher's place, also in the choice of the top k.
        logit_scale, softcap: see ``transform_logits``.
        weights: [N], constant factors on the values. With them gradients are computed in the forward pass, and the
            backward pass accepts only the same gradient for every token, such as that of ``.sum()``.
        chunk_size: rows per chunk; by default what ``chunked.LIMITS`` gives for the device.

    Returns:
        [N] values in nats, times ``weights`` if given, in fp32 (fp64 for fp64 input). Gradients flow to
        ``student_hidden`` and ``student_head`` only.

    Raises:
        ValueError: an argument is out of range, or shapes do not match.
    """
    constant = [(teacher_hidden, teacher_head), *(target.references if target else ())]
    _check_shapes(student_hidden, student_head, *constant)
    check_options(kind, beta, temperature=temperature, softcap=softcap, clip=clip, vocab_clip=vocab_clip)
    support = _support(top_k, top_k_of, student_head)
    logits = _logits_of(target, temperature, logit_scale, softcap)

    def values(_: slice, student_raw: Tensor, constant_raw: Sequence[Tensor]) -> Tensor:
        log_q, log_p = _log_probs(*logits(student_raw, constant_raw), support, top_k_of, tail)
        result = divergence(log_q, log_p, kind=kind, beta=beta, vocab_clip=vocab_clip)
        return result if clip is None else result.clamp(max=clip)

    closed = DIVERGENCES[kind].gradient if {support, clip, vocab_clip, softcap} == {None} else None
    gradient = by_autograd(values) if closed is None else closed(logit_scale / temperature, target)
    return chunked(values, gradient, student_hidden, student_head, constant, weights, chunk_size)


def chunked_sampled_divergence(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    token_ids: Tensor,
    *,
    temperature: float = 1.0,
    clip: float | None = None,
    target: ChunkTarget | None = None,
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
    constant = [(teacher_hidden, teacher_head), *(target.references if target else ())]
    _check_shapes(student_hidden, student_head, *constant)
    check_options("reverse_kl", 0.5, temperature=temperature, softcap=softcap, clip=clip)
    _check_token_ids(token_ids, student_hidden)
    logits = _logits_of(target, temperature, logit_scale, softcap)

    def values(rows: slice, student_raw: Tensor, constant_raw: Sequence[Tensor]) -> Tensor:
        sampled = token_ids[rows, None]
        student_logits, target_logits = logits(student_raw, constant_raw)
        log_q = student_logits.log_softmax(-1).gather(-1, sampled).squeeze(-1)
        log_p = target_logits.log_softmax(-1).gather(-1, sampled).squeeze(-1)
        ratio = (log_q - log_p).detach()
        if clip is not None:
            ratio = ratio.clamp(-clip, clip)
        return ratio + ratio * (log_q - log_q.detach())  # the second term is 0 and carries the gradient

    return chunked(values, by_autograd(values), student_hidden, student_head, constant, weights, chunk_size)


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
    check_options("forward_kl", 0.5, temperature=temperature, softcap=softcap)
    _check_token_ids(token_ids, hidden)

    def values(rows: slice, raw: Tensor, _: Sequence[Tensor]) -> Tensor:
        logits = transform_logits(raw, temperature, logit_scale, softcap)
        return logits.gather(-1, token_ids[rows, None]).squeeze(-1) - logits.logsumexp(-1)

    return chunked(values, by_autograd(values), hidden, head, (), weights, chunk_size)


def divergence(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    *,
    kind: DivergenceKind,
    beta: float = 0.5,
    vocab_clip: float | None = None,
) -> Tensor:
    """Returns the divergence ``kind`` [...] of log-probabilities [..., V], in nats.

    An outcome with probability 0 (log-probability -inf) contributes 0, the limit of x log x. A KL is infinite if its
    second distribution gives probability 0 to an outcome of the first. ``vocab_clip`` bounds what an outcome adds.
    """
    spec = DIVERGENCES[kind]
    known = {"beta": beta}
    parameters = {name: known[name] for name in spec.parameters}
    if vocab_clip is None:
        return spec.values(student_log_probs, teacher_log_probs, **parameters)
    assert spec.terms is not None
    return spec.terms(student_log_probs, teacher_log_probs, **parameters).clamp(max=vocab_clip).sum(-1)


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


def kl_terms(log_a: Tensor, log_b: Tensor) -> Tensor:
    """What each outcome adds to KL(a || b), [..., V]: a (log a - log b) - a + b.

    No term is negative, and the second half adds up to 0. The terms a (log a - log b) alone are of both signs: with an
    upper bound on them their sum may be negative, and smallest where the distributions differ.
    """
    a = log_a.exp()
    return a * torch.where(a > 0, log_a - log_b, 0.0) - a + log_b.exp()


def forward_kl_terms(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """The terms of KL(p || q), [..., V]."""
    return kl_terms(teacher_log_probs, student_log_probs)


def jsd_terms(student_log_probs: Tensor, teacher_log_probs: Tensor, *, beta: float) -> Tensor:
    """The terms of ``jsd``, [..., V]. What is added to those of the two KLs cancels at every outcome."""
    log_mixture = _log_mixture(teacher_log_probs, student_log_probs, beta)
    of_teacher, of_student = kl_terms(teacher_log_probs, log_mixture), kl_terms(student_log_probs, log_mixture)
    return beta * of_teacher + (1 - beta) * of_student


def forward_kl_gradient(scale: float, target: ChunkTarget | None) -> GradientFn:
    """Returns a function for KL(p || q) and its gradient scale * (q - p); logits are scale * raw logits, all finite."""

    def gradient(_: slice, student_raw: Tensor, constant_raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        log_q = student_raw.mul_(scale).log_softmax(-1)
        log_p, *references = (raw.mul_(scale).log_softmax(-1) for raw in constant_raw)
        if target is not None:
            log_p = target.log_probs(log_q, log_p, *references)
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
    terms: Callable[..., Tensor] | None = None
    """Maps the same to what each outcome adds to the value, [..., V], never negative. None: no ``vocab_clip``."""
    gradient: Callable[[float, ChunkTarget | None], GradientFn] | None = None
    """Makes the closed-form gradient over the full vocabulary from the factor on raw logits and the target. None: use
    autograd."""


DIVERGENCES: dict[DivergenceKind, DivergenceSpec] = {
    "forward_kl": DivergenceSpec(values=forward_kl, terms=forward_kl_terms, gradient=forward_kl_gradient),
    "reverse_kl": DivergenceSpec(values=reverse_kl, terms=kl_terms),
    "jsd": DivergenceSpec(values=jsd, parameters=("beta",), terms=jsd_terms),
}
"""The divergences by name. To add one, add a function and a row here, and its name to ``types.DivergenceKind``."""


def transform_logits(raw: Tensor, temperature: float, logit_scale: float, softcap: float | None) -> Tensor:
    """Applies scale, soft cap and temperature to raw logits (hidden @ head.T), [n, V] to [n, V].

    ``logit_scale`` is a factor on them (Cohere; the inverse of Granite's divisor); then logits become softcap *
    tanh(logits / softcap) (Gemma 2); then they are divided by the temperature.
    """
    logits = raw if logit_scale == 1.0 else raw * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits if temperature == 1.0 else logits / temperature


def restricted(logits: Tensor, index: Tensor, tail: bool) -> Tensor:
    """Log-probabilities [n, k] of the tokens ``index`` [n, k] by logits [n, V], renormalised. With ``tail`` [n, k + 1],
    not renormalised; the last column is the rest of the vocabulary."""
    kept = logits.gather(-1, index)
    if not tail:
        return kept.log_softmax(-1)
    rest = logits.scatter(-1, index, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([kept, rest], dim=-1) - logits.logsumexp(-1, keepdim=True)


def check_options(kind: str, beta: float, **positive: float | None) -> None:
    """Checks what a divergence takes. Raises ValueError if there is no such kind, or a number is out of range."""
    if kind not in DIVERGENCES:
        raise ValueError(f"kind must be one of {', '.join(DIVERGENCES)}, not {kind!r}")
    if "beta" in DIVERGENCES[kind].parameters and not 0 < beta < 1:
        raise ValueError(f"beta must lie strictly between 0 and 1, not {beta}: the divergence is zero at both ends")
    for name, value in positive.items():
        if value is not None and not value > 0:  # NaN, too
            raise ValueError(f"{name} must be positive, not {value}")
    if positive.get("vocab_clip") is not None and DIVERGENCES[kind].terms is None:
        raise ValueError(f"vocab_clip: {kind} has no terms to bound")


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


def _logits_of(
    target: ChunkTarget | None, temperature: float, logit_scale: float, softcap: float | None
) -> Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]:
    """Returns a function from the raw logits of the student and the constant models to the logits [n, V] of the student
    and the teacher, the first of them, or the log-probabilities of what takes the teacher's place."""

    def both(student_raw: Tensor, constant_raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        student, *constant = (
            transform_logits(raw, temperature, logit_scale, softcap) for raw in (student_raw, *constant_raw)
        )
        if target is None:
            return student, constant[0]
        with torch.no_grad():
            return student, target.log_probs(*(logits.log_softmax(-1) for logits in (student, *constant)))

    return both


def _log_probs(
    student_logits: Tensor, teacher_logits: Tensor, support: int | None, top_k_of: Role, tail: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of student and teacher [n, V], or of the ``support`` most likely tokens (``restricted``)."""
    if support is None:
        return student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    chosen = teacher_logits if top_k_of == "teacher" else student_logits.detach()
    index = chosen.topk(support, dim=-1).indices
    return restricted(student_logits, index, tail), restricted(teacher_logits, index, tail)


def _check_shapes(student_hidden: Tensor, student_head: Tensor, *constant: tuple[Tensor, Tensor]) -> None:
    models = [("student", (student_hidden, student_head)), ("teacher", constant[0])]
    models += [(f"reference_{number}", pair) for number, pair in enumerate(constant[1:])]
    for who, (hidden, head) in models:
        if hidden.shape[0] != student_hidden.shape[0]:
            raise ValueError(
                f"student_hidden has {student_hidden.shape[0]} rows and {who}_hidden {hidden.shape[0]}: "
                "both must be for the same tokens"
            )
        if head.shape[0] != student_head.shape[0]:
            raise ValueError(
                f"the student's vocabulary has {student_head.shape[0]} entries and the {who}'s {head.shape[0]}"
            )
        if hidden.shape[1:] != head.shape[1:]:
            raise ValueError(f"{who}_hidden {tuple(hidden.shape)} and {who}_head {tuple(head.shape)} disagree on H")


def _check_token_ids(token_ids: Tensor, hidden: Tensor) -> None:
    if token_ids.shape != hidden.shape[:1]:
        raise ValueError(f"token_ids {tuple(token_ids.shape)} and hidden {tuple(hidden.shape)} disagree on N")


def _support(top_k: int | None, top_k_of: str, head: Tensor) -> int | None:
    """Number of tokens to compare; None for the full vocabulary."""
    if top_k_of not in ("teacher", "student"):
        raise ValueError(f"top_k_of must be teacher or student, not {top_k_of!r}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    return top_k if top_k is not None and top_k < head.shape[0] else None
