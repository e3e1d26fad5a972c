"""Functions of logits without the logits: rows are multiplied with the LM head a chunk at a time.

A chunk of logits is used and dropped, so that no tensor of shape [tokens, vocabulary] ever exists, forward
or backward. Gradients are made while a chunk's logits are at hand where the weight of every row in the loss
is known beforehand; else the backward pass makes the logits once more.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ValueFn = Callable[[slice, Tensor, Tensor | None], Tensor]
"""Rows' slice and raw logits [n, V] of student and teacher to values [n], differentiable."""
GradientFn = Callable[[slice, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""The same, but values [n] and their gradient [n, V] with respect to the student's raw logits."""

CHUNK_ELEMENTS = 1 << 23
"""Logits of one chunk when no chunk size is given: 8.4 million, 34 MB in fp32."""
FEWEST_ROWS = 64
"""Rows of one chunk at least, when no chunk size is given: every chunk reads and writes the head's whole gradient."""
TILE_ELEMENTS = 1 << 23
"""Largest part of the head's gradient that is made at once: 8.4 million, 34 MB in fp32."""


def by_autograd(values: ValueFn) -> GradientFn:
    """Values and gradient by differentiating ``values``."""

    def gradient(rows: slice, student_raw: Tensor, teacher_raw: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            out = values(rows, student_raw.requires_grad_(), teacher_raw)
        (grad,) = torch.autograd.grad(out, student_raw, torch.ones_like(out))
        return out.detach(), grad

    return gradient


def chunked(
    values: ValueFn,
    gradient: GradientFn,
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor | None,
    teacher_head: Tensor | None,
    weights: Tensor | None,
    chunk_size: int | None,
) -> Tensor:
    """[N] row-wise values of logits, by chunks, with gradients to the student's hidden states and head.

    Args:
        values: from raw logits to values.
        gradient: the same, with the gradient.
        student_hidden: [N, H].
        student_head: [V, H].
        teacher_hidden: [N, H'], or None where ``values`` takes no teacher.
        teacher_head: [V, H'] or None.
        weights: [N] constants that the values are multiplied by, or None. With them gradients are made along
            with the values, and backward takes only the same gradient for every row.
        chunk_size: rows per chunk; by default as many as make ``CHUNK_ELEMENTS`` logits, and at least ``FEWEST_ROWS``.

    Raises:
        ValueError: ``weights`` has another length than ``student_hidden``, or ``chunk_size`` is below 1.
    """
    if chunk_size is None:
        chunk_size = max(FEWEST_ROWS, CHUNK_ELEMENTS // student_head.shape[0])
    elif chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    if weights is not None and weights.shape != student_hidden.shape[:1]:
        raise ValueError(f"weights {tuple(weights.shape)} and hidden {tuple(student_hidden.shape)} disagree on N")
    function: Any = _Chunked if weights is None or not torch.is_grad_enabled() else _ChunkedWithGradient
    result = function.apply(
        values, gradient, chunk_size, weights, student_hidden, student_head, teacher_hidden, teacher_head
    )
    assert isinstance(result, Tensor)
    return result


class _Gradients:
    """Gradients to the student's hidden states and head, added up chunk by chunk; the head's in tiles of its rows."""

    def __init__(self, hidden: Tensor, head: Tensor, needed: tuple[bool, bool]) -> None:
        self._hidden, self._head = hidden.detach(), head.detach()
        self._to_hidden = torch.zeros_like(self._hidden) if needed[0] else None
        # fp32: bf16 would lose late chunks
        accumulate = torch.promote_types(head.dtype, torch.float32)
        self._tile_rows = max(1, TILE_ELEMENTS // head.shape[1])
        parts = torch.split(self._head, self._tile_rows) if needed[1] else ()
        self._tiles = [torch.zeros_like(part, dtype=accumulate) for part in parts]

    def add(self, rows: slice, to_logits: Tensor) -> None:
        """``to_logits``: [n, V], the gradient to the raw logits of ``rows``."""
        to_logits = to_logits.to(self._hidden.dtype)
        if self._to_hidden is not None:
            self._to_hidden[rows] = to_logits @ self._head
        if self._tiles:
            for tile, part in zip(self._tiles, torch.split(to_logits, self._tile_rows, dim=1), strict=True):
                tile += part.T @ self._hidden[rows]

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        """In the dtypes of hidden states and head. Once: a tile is given back when it is copied."""
        if not self._tiles:
            return self._to_hidden, None
        to_head = torch.empty_like(self._head)
        for part in torch.split(to_head, self._tile_rows):
            part.copy_(self._tiles.pop(0))
        return self._to_hidden, to_head


class _Chunked(torch.autograd.Function):
    """Row-wise values of logits that are computed a chunk at a time, and again in the backward pass."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        values: ValueFn,
        gradient: GradientFn,
        chunk_size: int,
        weights: Tensor | None,
        student_hidden: Tensor,
        student_head: Tensor,
        teacher_hidden: Tensor | None,
        teacher_head: Tensor | None,
    ) -> Tensor:
        ctx.gradient, ctx.chunk_size = gradient, chunk_size
        ctx.save_for_backward(student_hidden, student_head, teacher_hidden, teacher_head)
        out = _new_values(student_hidden)
        logits = _chunks(chunk_size, student_hidden, student_head, teacher_hidden, teacher_head)
        for rows, student_raw, teacher_raw in logits:
            out[rows] = values(rows, student_raw, teacher_raw)
        return out if weights is None else out * weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        student_hidden, student_head, *_ = ctx.saved_tensors
        gradients = _Gradients(student_hidden, student_head, ctx.needs_input_grad[4:6])
        for rows, student_raw, teacher_raw in _chunks(ctx.chunk_size, *ctx.saved_tensors):
            _, grad = ctx.gradient(rows, student_raw, teacher_raw)
            gradients.add(rows, grad.mul_(grad_out[rows, None]))
        return None, None, None, None, *gradients.result(), None, None


class _ChunkedWithGradient(torch.autograd.Function):
    """The same times ``weights``, and the gradient of their sum along with them."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        values: ValueFn,
        gradient: GradientFn,
        chunk_size: int,
        weights: Tensor,
        student_hidden: Tensor,
        student_head: Tensor,
        teacher_hidden: Tensor | None,
        teacher_head: Tensor | None,
    ) -> Tensor:
        gradients = _Gradients(student_hidden, student_head, ctx.needs_input_grad[4:6])
        out = _new_values(student_hidden)
        logits = _chunks(chunk_size, student_hidden, student_head, teacher_hidden, teacher_head)
        for rows, student_raw, teacher_raw in logits:
            out[rows], grad = gradient(rows, student_raw, teacher_raw)
            gradients.add(rows, grad.mul_(weights[rows, None]))
        ctx.gradients = gradients.result()
        return out * weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if grad_out.numel() and not bool((grad_out == grad_out[0]).all()):
            raise ValueError("with weights given, sum the values: every token's gradient must be the same")
        factor = grad_out[:1].sum()  # 0 of no token
        to_hidden, to_head = (None if grad is None else grad * factor.to(grad.dtype) for grad in ctx.gradients)
        return None, None, None, None, to_hidden, to_head, None, None


def _new_values(hidden: Tensor) -> Tensor:
    return hidden.new_empty(hidden.shape[0], dtype=torch.promote_types(hidden.dtype, torch.float32))


def _chunks(
    size: int,
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor | None,
    teacher_head: Tensor | None,
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Rows' slice and raw logits [n, V] of student and teacher, chunk by chunk."""
    for start in range(0, len(student_hidden), size):
        rows = slice(start, min(start + size, len(student_hidden)))
        teacher = None if teacher_hidden is None or teacher_head is None else (teacher_hidden[rows], teacher_head)
        yield rows, _raw_logits(student_hidden[rows], student_head), teacher and _raw_logits(*teacher)


def _raw_logits(hidden: Tensor, head: Tensor) -> Tensor:
    """hidden @ head.T, [n, V], in at least fp32, outside any graph."""
    logits = hidden.detach() @ head.detach().T
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
