"""Micro-batches of several processes that take the same passes, for a model whose weights are split over them.

There a pass through a layer is an exchange, so all processes must make as many, in the same order. Where one has fewer,
or nothing to learn from, it runs a single padding token through the model, which adds zeros to the gradients.
"""

from collections.abc import Callable, Sequence

import torch

from selfdistill.method.batch import MicroBatch, Part, Scored
from selfdistill.types import Target

Counts = tuple[int, int, int]
"""Passes of a part: the student's, the teacher's, and those with another row's demonstration."""
Plan = list[tuple[Target, Counts]]
"""The parts of a micro-batch, in order."""


def alike(
    batches: Sequence[MicroBatch], gathered: Callable[[list[Plan]], list[list[Plan]]], pad: int, device: torch.device
) -> list[MicroBatch]:
    """The micro-batches of this process, filled up so that those of all processes have the same parts and passes.

    Args:
        batches: as many in every process.
        gathered: from this process's plans to those of all.
        pad: id of the padding token.
        device: for the tensors.
    """
    own: list[Plan] = [[(part.target, _counts(part)) for part in batch.parts] for batch in batches]
    everyone = gathered(own)
    return [_filled(batch, [plans[at] for plans in everyone], pad, device) for at, batch in enumerate(batches)]


def _counts(part: Part) -> Counts:
    return len(part.student), len(part.teacher or ()), len(part.other or ())


def _filled(batch: MicroBatch, plans: Sequence[Plan], pad: int, device: torch.device) -> MicroBatch:
    wanted: dict[Target, Counts] = {}
    for target, counts in (one for plan in plans for one in plan):
        most = wanted.get(target, (0, 0, 0))
        wanted[target] = (max(most[0], counts[0]), max(most[1], counts[1]), max(most[2], counts[2]))
    there = {part.target: part for part in batch.parts}
    return MicroBatch(
        parts=tuple(_part(there.get(target), target, wanted[target], pad, device) for target in sorted(wanted))
    )


def _part(there: Part | None, target: Target, counts: Counts, pad: int, device: torch.device) -> Part:
    """The part with as many passes; one without samples if there is none."""
    nothing = Scored(
        input_ids=torch.tensor([[pad]], device=device), rows=torch.empty(0, dtype=torch.int64, device=device)
    )

    def passes(own: tuple[Scored, ...] | None, count: int) -> tuple[Scored, ...] | None:
        return (*(own or ()), *[nothing] * (count - len(own or ()))) if count else own

    student, teacher, other = counts
    return Part(
        target=target,
        samples=there.samples if there else (),
        student=passes(there.student if there else None, student) or (),
        teacher=passes(there.teacher if there else None, teacher),
        token_ids=there.token_ids if there else torch.empty(0, dtype=torch.int64, device=device),
        weights=there.weights if there else torch.empty(0, device=device),
        sampler_logprobs=there.sampler_logprobs if there else None,
        other=passes(there.other if there else None, other),
    )
