"""Targets: the next-token distributions that the student can be held to where it is compared with a teacher.

Everything here is a pure function of log-probabilities [..., V] in nats. A target is constant, as the teacher is.
Notation, per token: t = target, p = teacher, q = student, r = start model, o = the teacher shown another row's
demonstration.

============  ==========================================================================================
``teacher``   t = p                                         Self-Distillation Fine-Tuning (arXiv 2601.19897)
``mix``       log t = (1 - w) log r + w log p + constant    beta-OPSD (arXiv 2607.28582); r may also be q
``budget``    log t = (1 - s) log q + s log p + constant,   after iSDFT (arXiv 2609.24646); each token has
              KL(t || q) = min(budget, KL(p || q))          its own s in [0, 1]
``contrast``  log t = log r + log p - log o + constant      ours
============  ==========================================================================================
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfdistill.types import TargetKind, TargetReference

Reference = Literal["start", "other"]
"""A model that a target reads beside student and teacher: the start model on the student's prompt, or the teacher on
the prompt with another row's demonstration."""
TOLERANCE = 1e-4
"""Nats by which a token of ``budget`` may miss its budget, or a thousandth of the budget if that is less."""
FINEST, MOST_STEPS = 1e-7, 60
"""The search for a token's share also ends when the share is known so well, or after so many steps."""


def mix(student: Tensor, teacher: Tensor, start: Tensor | None = None, *, weight: float) -> Tensor:
    """Normalised geometric mean of a reference and the teacher with the weights 1 - ``weight`` and ``weight``.

    The reference is ``start``, or the student if that is None.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie between 0 and 1, not {weight}")
    reference = student if start is None else start
    if weight in (0, 1):  # 0 * (-inf) would be NaN
        return (teacher if weight == 1 else reference).log_softmax(-1)
    return ((1 - weight) * reference + weight * teacher).log_softmax(-1)


def budget(student: Tensor, teacher: Tensor, *, budget: float) -> Tensor:
    """The distribution nearest to the teacher, by KL(t || p), among those with KL(t || q) <= ``budget``.

    Lagrange's condition makes it an exponential tilt of the student: log t = log q + s g - log Z(s), with g = log p -
    log q. Of all distributions with as large a mean of g it is also the one nearest to the student (iSDFT). With E and
    Var under t, KL(t || q) = s E[g] - log Z(s) grows with s at the rate s Var[g], from 0 to KL(p || q). So s is 1 where
    that is within the budget; elsewhere Newton's method finds it, within a bracket that is halved where a step of
    Newton's would leave it.
    """
    if not budget >= 0:
        raise ValueError(f"budget must be at least 0, not {budget}")
    if budget == 0:
        return student.log_softmax(-1)
    base = torch.where(teacher > -math.inf, student, -math.inf)
    gain = torch.where(base > -math.inf, teacher - base, 0.0)
    share, tolerance = student.new_ones(*student.shape[:-1], 1), min(TOLERANCE, max(1e-3 * budget, 1e-6))
    low, high = torch.zeros_like(share), torch.ones_like(share)
    for _ in range(MOST_STEPS):
        tilted = base + share * gain
        log_z = tilted.logsumexp(-1, keepdim=True)
        weighted = tilted.sub_(log_z).exp_().mul_(gain)
        mean = weighted.sum(-1, keepdim=True)
        variance = (weighted.mul_(gain).sum(-1, keepdim=True) - mean**2).clamp(min=0)
        excess = share * mean - log_z - budget
        done = (excess.abs() <= tolerance) | ((share == 1) & (excess <= 0)) | (high - low <= FINEST)
        if bool(done.all()):
            break
        low, high = torch.where(excess < 0, share, low), torch.where(excess < 0, high, share)
        newton = share - excess / (share * variance)
        inside = (newton > low) & (newton < high)  # not if it is NaN or infinite
        share = torch.where(done, share, torch.where(inside, newton, (low + high) / 2))
    return torch.where(share == 1, teacher, base + share * gain).log_softmax(-1)


def contrast(student: Tensor, teacher: Tensor, start: Tensor, other: Tensor) -> Tensor:
    """The start model, multiplied by how much likelier the row's own demonstration makes a token than another row's.

    What any demonstration does, such as to the answer's form or length, is in p and o alike, and cancels. All
    log-probabilities must be finite.
    """
    return (start + teacher - other).log_softmax(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """A distribution that the student is held to."""

    log_probs: Callable[..., Tensor] | None = None
    """Maps the log-probabilities [..., V] of student, teacher and ``references``, and ``parameters`` by name, to the
    target's, in a new tensor. None: the target is the teacher."""
    parameters: tuple[str, ...] = ()
    """Names of the settings ``target_<name>`` that it takes, such as ``weight``."""
    references: tuple[Reference, ...] = ()
    """The models that it reads beside student and teacher, in order."""
    reference_can_be_student: bool = False
    """Whether the setting ``target_reference`` can replace its references by the student."""


TARGETS: dict[TargetKind, TargetSpec] = {
    "teacher": TargetSpec(),
    "mix": TargetSpec(log_probs=mix, parameters=("weight",), references=("start",), reference_can_be_student=True),
    "budget": TargetSpec(log_probs=budget, parameters=("budget",)),
    "contrast": TargetSpec(log_probs=contrast, references=("start", "other")),
}
"""The targets by name. To add one, add a function and a row here, and its name to ``types.TargetKind``."""


def references(kind: TargetKind, reference: TargetReference) -> tuple[Reference, ...]:
    """The models that a target reads beside student and teacher. ``reference``: the setting ``target_reference``."""
    spec = TARGETS[kind]
    return () if spec.reference_can_be_student and reference == "student" else spec.references


@torch.no_grad()
def target_log_probs(
    kind: TargetKind,
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    start_log_probs: Tensor | None = None,
    *,
    other_log_probs: Tensor | None = None,
    weight: float | None = None,
    budget: float | None = None,
) -> Tensor:
    """Returns the target's log-probabilities [N, V], normalised, without gradient.

    Args:
        kind: a row of ``TARGETS``.
        student_log_probs: [N, V], fp32 or fp64, in nats, as all others are.
        teacher_log_probs: [N, V].
        start_log_probs: [N, V], the start model on the student's prompt; for ``contrast``, and for ``mix`` unless the
            reference is to be the student.
        other_log_probs: [N, V], the teacher shown another row's demonstration; for ``contrast``.
        weight: weight of the teacher in ``mix``, in [0, 1].
        budget: KL(t || q) of a token of ``budget``, in nats, at least 0; it may be infinite.

    Raises:
        ValueError: there is no such target, it lacks what it reads, or a number is out of range.
    """
    if kind not in TARGETS:
        raise ValueError(f"kind must be one of {', '.join(TARGETS)}, not {kind!r}")
    spec = TARGETS[kind]
    if spec.log_probs is None:
        return teacher_log_probs.log_softmax(-1)
    numbers = {"weight": weight, "budget": budget}
    models = {"start": start_log_probs, "other": other_log_probs}
    needed = {name: numbers[name] for name in spec.parameters}
    read = {name: models[name] for name in spec.references}
    if start_log_probs is None and spec.reference_can_be_student:
        read = {}
    if missing := [name for name, value in (needed | read).items() if value is None]:
        raise ValueError(f"target {kind} needs {' and '.join(missing)}")
    return spec.log_probs(student_log_probs, teacher_log_probs, *read.values(), **needed)
