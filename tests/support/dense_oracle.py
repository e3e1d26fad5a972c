"""The divergences written the plain way: dense, fp64, from entropies. What ``divergence.py`` is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from selfdistill.method.divergence import ChunkTarget
from selfdistill.method.targets import TARGETS
from selfdistill.types import DivergenceKind

KINDS: tuple[DivergenceKind, ...] = get_args(DivergenceKind)
SUPPORTS = [
    {},
    {"top_k": 3, "top_k_of": "teacher"},
    {"top_k": 3, "top_k_of": "teacher", "tail": True},
    {"top_k": 3, "top_k_of": "student"},
    {"top_k": 3, "top_k_of": "student", "tail": True},
]
TRANSFORMS = [{}, {"temperature": 0.7}, {"logit_scale": 0.25}, {"softcap": 2.0}, {"clip": 0.4}]
VARIANTS = [
    {"kind": kind, **({"beta": beta} if kind == "jsd" else {}), **support, **transform}
    for kind, beta in [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.5), ("jsd", 0.1), ("jsd", 0.9)]
    for support in SUPPORTS
    for transform in TRANSFORMS
]


def variant_name(variant: dict) -> str:
    return "-".join(f"{key}={value}" if key != "kind" else value for key, value in variant.items())


@dataclass(frozen=True)
class Case:
    """Hidden states and heads of a student and a teacher, [N, H] and [V, H], in fp64."""

    student_hidden: Tensor
    student_head: Tensor
    teacher_hidden: Tensor
    teacher_head: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.student_hidden, self.student_head, self.teacher_hidden, self.teacher_head

    def to(self, dtype: torch.dtype) -> "Case":
        return Case(*(tensor.to(dtype) for tensor in self.tensors))


def make_case(tokens: int, vocabulary: int, *, seed: int = 0, spread: float = 1.0, hidden: int = 5) -> Case:
    """Random hidden states and heads; ``spread`` is the standard deviation of the logits. The teacher is wider."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scale = spread / hidden**0.5
    wide = hidden + 2
    return Case(
        normal(tokens, hidden) * scale,
        normal(vocabulary, hidden),
        normal(tokens, wide) * scale,
        normal(vocabulary, wide),
    )


def logs(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def log_heads(p: list[float], q: list[float]) -> Case:
    """One token whose teacher has the probabilities ``p`` and whose student has ``q``."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return Case(one, logs(*q)[:, None], one, logs(*p)[:, None])


def oracle(
    case: Case,
    *,
    kind: str = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_k_of: str = "teacher",
    tail: bool = False,
    clip: float | None = None,
    vocab_clip: float | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    target: Callable[..., Tensor] | None = None,
    references: Sequence[tuple[Tensor, Tensor]] = (),
) -> Tensor:
    """[N] values of ``chunked_divergence``. ``target`` maps probabilities of student, teacher and references to its
    own."""

    def probabilities(hidden: Tensor, head: Tensor) -> Tensor:
        logits = hidden @ head.T * logit_scale
        if softcap is not None:
            logits = (logits / softcap).tanh() * softcap
        return (logits / temperature).softmax(-1)

    q = probabilities(case.student_hidden, case.student_head)
    p = probabilities(case.teacher_hidden, case.teacher_head)
    if target is not None:
        p = target(q.detach(), p, *(probabilities(hidden, head) for hidden, head in references))
    if top_k is not None and top_k < p.shape[-1]:
        order = (p if top_k_of == "teacher" else q).argsort(dim=-1, descending=True)
        q, p = (_restricted(x.gather(-1, order), top_k, tail) for x in (q, p))
    if vocab_clip is not None:
        values = _terms(kind, p, q, beta).clamp(max=vocab_clip).sum(-1)
        return values if clip is None else torch.where(values > clip, clip, values)
    values = {
        "forward_kl": lambda: _cross_entropy(p, q) - _entropy(p),
        "reverse_kl": lambda: _cross_entropy(q, p) - _entropy(q),
        # beta KL(p || m) + (1 - beta) KL(q || m) = H(m) - beta H(p) - (1 - beta) H(q)
        "jsd": lambda: _entropy(beta * p + (1 - beta) * q) - beta * _entropy(p) - (1 - beta) * _entropy(q),
    }[kind]()
    return values if clip is None else torch.where(values > clip, clip, values)


def _terms(kind: str, p: Tensor, q: Tensor, beta: float) -> Tensor:
    """What each outcome adds: f(q / p) p for the convex f of the divergence that is smallest, and 0, at 1."""
    if kind == "jsd":
        m = beta * p + (1 - beta) * q
        return beta * p * (p / m).log() + (1 - beta) * q * (q / m).log()
    a, b = (p, q) if kind == "forward_kl" else (q, p)
    return a * ((a / b).log() + b / a - 1)


def dense_target(kind: str, *, weight: float = 0.5, budget: float = 0.1) -> Callable[..., Tensor] | None:
    """The target as a function of probabilities of student, teacher and references, from its definition."""

    def mix(q: Tensor, p: Tensor, r: Tensor | None = None) -> Tensor:
        return _normalised((q if r is None else r) ** (1 - weight) * p**weight)

    def budgeted(q: Tensor, p: Tensor) -> Tensor:
        low, high = torch.zeros(len(q), 1).double(), torch.ones(len(q), 1).double()
        for _ in range(60):
            middle = (low + high) / 2
            t = _normalised(q ** (1 - middle) * p**middle)
            within = (t * (t / q).log()).sum(-1, keepdim=True) <= budget
            low, high = torch.where(within, middle, low), torch.where(within, high, middle)
        return _normalised(q ** (1 - high) * p**high)

    def contrast(q: Tensor, p: Tensor, r: Tensor, o: Tensor) -> Tensor:
        return _normalised(r * p / o)

    return {"teacher": None, "mix": mix, "budget": budgeted, "contrast": contrast}[kind]


def chunk_target(kind: Any, references: Sequence[tuple[Tensor, Tensor]], **numbers: float) -> ChunkTarget | None:
    """The same as ``chunked_divergence`` takes it."""
    spec = TARGETS[kind]
    if spec.log_probs is None:
        return None
    return ChunkTarget(log_probs=partial(spec.log_probs, **numbers), references=references)


def _normalised(x: Tensor) -> Tensor:
    return x / x.sum(-1, keepdim=True)


def _restricted(ordered: Tensor, top_k: int, tail: bool) -> Tensor:
    kept = ordered[:, :top_k]
    if tail:
        return torch.cat([kept, ordered[:, top_k:].sum(-1, keepdim=True)], dim=-1)
    return kept / kept.sum(-1, keepdim=True)


def _cross_entropy(a: Tensor, b: Tensor) -> Tensor:
    return -(a * b.log()).sum(-1)


def _entropy(a: Tensor) -> Tensor:
    return _cross_entropy(a, a)


def with_gradients(values: Any, case: Case, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values [N] of ``values(case)``, and the gradients of their weighted sum to student hidden and head."""
    leaves = Case(*(tensor.detach().clone().requires_grad_() for tensor in case.tensors))
    result = values(leaves)
    (result * weights.to(result.dtype)).sum().backward()
    assert leaves.student_hidden.grad is not None
    assert leaves.student_head.grad is not None
    return result.detach(), leaves.student_hidden.grad, leaves.student_head.grad
