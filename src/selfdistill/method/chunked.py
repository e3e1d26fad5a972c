"""Functions of logits that never build all logits: hidden states are multiplied with the LM head a chunk at a time.

No tensor of shape [tokens, vocabulary] exists, forward or backward. If the weight of every row in the loss is known
beforehand, gradients are computed in the forward pass, while a chunk's logits exist; otherwise the backward pass
computes the logits again.

Shapes: N rows, n rows in a chunk, V tokens in the vocabulary, H hidden size of the student, H' of a constant model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ValueFn = Callable[[slice, Tensor, Sequence[Tensor]], Tensor]
"""Maps a slice of rows and the raw logits [n, V] of the student, and of every constant model, to values [n],
differentiably."""
GradientFn = Callable[[slice, Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]
"""The same, but returns values [n] and their gradient [n, V] with respect to the student's raw logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLimits:
    """How much of the logits and of the head's gradient is computed at once."""

    logits: int
    """Logits in a chunk if no chunk size is given."""
    fewest_rows: int
    """Minimum rows in a chunk then, because each chunk reads and writes the head's whole gradient."""
    tile_elements: int | None
    """Maximum elements of the head's gradient computed at once; None for no limit."""

    def rows(self, vocabulary: int) -> int:
        """Rows in a chunk if no chunk size is given."""
        return max(self.fewest_rows, self.logits // vocabulary)

    def tile(self, head: int) -> int:
        """Elements of a gradient of ``head`` elements that are computed at once, at most."""
        return head if self.tile_elements is None else min(head, self.tile_elements)


LIMITS = {
    # 8.4 million elements, 34 MB in fp32
    "cpu": ChunkLimits(logits=1 << 23, fewest_rows=64, tile_elements=1 << 23),
    # 67 million logits, 268 MB in fp32. From some 512 rows on, a chunk's products take longer than the head's gradient
    # takes to be read and written. Reckoned, not measured.
    "cuda": ChunkLimits(logits=1 << 26, fewest_rows=512, tile_elements=None),
}
"""By type of device. Other accelerators are taken for CUDA."""


def limits_on(device_type: str) -> ChunkLimits:
    """Returns the row of LIMITS for a type of device."""
    return LIMITS.get(device_type, LIMITS["cuda"])


FP32_PRODUCTS = torch.version.hip is None and torch.__version__ >= "2.10"
"""Whether this torch makes fp32 products of bf16 matrices on CUDA, and adds them to an fp32 one. (2.8 and 2.9 have the
products alone.)"""


def by_autograd(values: ValueFn) -> GradientFn:
    """Returns a function that gives values and their gradient, by differentiating ``values``."""

    def gradient(rows: slice, student_raw: Tensor, constant_raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            out = values(rows, student_raw.requires_grad_(), constant_raw)
        (grad,) = torch.autograd.grad(out, student_raw, torch.ones_like(out))
        return out.detach(), grad

    return gradient


def chunked(
    values: ValueFn,
    gradient: GradientFn,
    student_hidden: Tensor,
    student_head: Tensor,
    constant: Sequence[tuple[Tensor, Tensor]],
    weights: Tensor | None,
    chunk_size: int | None,
) -> Tensor:
    """Returns row-wise values [N] of logits, computed in chunks. Gradients reach the student's hidden states and head.

    Args:
        values: computes values from raw logits.
        gradient: computes values and their gradient from raw logits.
        student_hidden: [N, H].
        student_head: [V, H].
        constant: hidden states [N, H'] and head [V, H'] of every model that ``values`` reads beside the student, such
            as the teacher.
        weights: [N] constant factors on the values, or None. With them gradients are computed along with the values,
            and the backward pass accepts only the same gradient for every row.
        chunk_size: rows per chunk; by default ``limits_on(device).rows(V)``.

    Raises:
        ValueError: ``weights`` has another length than ``student_hidden``, or ``chunk_size`` is below 1.
    """
    if chunk_size is None:
        chunk_size = limits_on(student_head.device.type).rows(student_head.shape[0])
    elif chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    if weights is not None and weights.shape != student_hidden.shape[:1]:
        raise ValueError(f"weights {tuple(weights.shape)} and hidden {tuple(student_hidden.shape)} disagree on N")
    function: Any = _Chunked if weights is None or not torch.is_grad_enabled() else _ChunkedWithGradient
    result = function.apply(
        values, gradient, chunk_size, weights, student_hidden, student_head, *(t for pair in constant for t in pair)
    )
    assert isinstance(result, Tensor)
    return result


class _Gradients:
    """Accumulates gradients to the student's hidden states [N, H] and head [V, H]; the head's in tiles of its rows."""

    def __init__(self, hidden: Tensor, head: Tensor, needed: tuple[bool, bool]) -> None:
        self._hidden, self._head = hidden.detach(), head.detach()
        self._to_hidden = torch.zeros_like(self._hidden) if needed[0] else None
        # in fp32, because sums in bf16 would lose the contributions of late chunks
        accumulate = torch.promote_types(head.dtype, torch.float32)
        self._tile_rows = max(1, limits_on(head.device.type).tile(head.numel()) // head.shape[1])
        parts = torch.split(self._head, self._tile_rows) if needed[1] else ()
        self._tiles = [torch.zeros_like(part, dtype=accumulate) for part in parts]

    def add(self, rows: slice, to_logits: Tensor) -> None:
        """Adds the contribution of ``rows``, whose gradient with respect to the raw logits is ``to_logits`` [n, V]."""
        to_logits = to_logits.to(self._hidden.dtype)
        if self._to_hidden is not None:
            self._to_hidden[rows] = to_logits @ self._head
        if self._tiles:
            for tile, part in zip(self._tiles, torch.split(to_logits, self._tile_rows, dim=1), strict=True):
                _add_product(tile, part.T, self._hidden[rows])

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        """Both gradients, in the dtypes of hidden states and head. Call it once: each tile is freed after copying."""
        if not self._tiles:
            return self._to_hidden, None
        to_head = torch.empty_like(self._head)
        for part in torch.split(to_head, self._tile_rows):
            part.copy_(self._tiles.pop(0))
        return self._to_hidden, to_head


class _Chunked(torch.autograd.Function):
    """Row-wise values [N] of logits that are computed chunk by chunk, and again in the backward pass."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        values: ValueFn,
        gradient: GradientFn,
        chunk_size: int,
        weights: Tensor | None,
        student_hidden: Tensor,
        student_head: Tensor,
        *constant: Tensor,
    ) -> Tensor:
        ctx.gradient, ctx.chunk_size = gradient, chunk_size
        ctx.save_for_backward(student_hidden, student_head, *constant)
        out = _new_values(student_hidden)
        for rows, student_raw, constant_raw in _chunks(chunk_size, student_hidden, student_head, *constant):
            out[rows] = values(rows, student_raw, constant_raw)
        return out if weights is None else out * weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        student_hidden, student_head, *constant = ctx.saved_tensors
        gradients = _Gradients(student_hidden, student_head, ctx.needs_input_grad[4:6])
        for rows, student_raw, constant_raw in _chunks(ctx.chunk_size, *ctx.saved_tensors):
            _, grad = ctx.gradient(rows, student_raw, constant_raw)
            gradients.add(rows, grad.mul_(grad_out[rows, None]))
        return None, None, None, None, *gradients.result(), *(None for _ in constant)


class _ChunkedWithGradient(torch.autograd.Function):
    """The same values times ``weights`` [N]; the gradient of their sum is computed in the forward pass."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        values: ValueFn,
        gradient: GradientFn,
        chunk_size: int,
        weights: Tensor,
        student_hidden: Tensor,
        student_head: Tensor,
        *constant: Tensor,
    ) -> Tensor:
        gradients = _Gradients(student_hidden, student_head, ctx.needs_input_grad[4:6])
        out = _new_values(student_hidden)
        for rows, student_raw, constant_raw in _chunks(chunk_size, student_hidden, student_head, *constant):
            out[rows], grad = gradient(rows, student_raw, constant_raw)
            gradients.add(rows, grad.mul_(weights[rows, None]))
        ctx.gradients, ctx.constants = gradients.result(), len(constant)
        return out * weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # The gradient of a sum is one number, expanded. To look at its values would wait for the device.
        if grad_out.stride() != (0,) and not bool((grad_out == grad_out[:1]).all()):
            raise ValueError("with weights given, sum the values: every token's gradient must be the same")
        factor = grad_out[:1].sum()  # 0 if there are no rows
        to_hidden, to_head = (None if grad is None else grad * factor.to(grad.dtype) for grad in ctx.gradients)
        return None, None, None, None, to_hidden, to_head, *(None for _ in range(ctx.constants))


def _new_values(hidden: Tensor) -> Tensor:
    return hidden.new_empty(hidden.shape[0], dtype=torch.promote_types(hidden.dtype, torch.float32))


def _chunks(
    size: int, student_hidden: Tensor, student_head: Tensor, *constant: Tensor
) -> Iterator[tuple[slice, Tensor, list[Tensor]]]:
    """Yields a slice of rows and the raw logits [n, V] of the student and of the constant models, chunk by chunk."""
    models = list(zip(constant[::2], constant[1::2], strict=True))
    for start in range(0, len(student_hidden), size):
        rows = slice(start, min(start + size, len(student_hidden)))
        student_raw = _raw_logits(student_hidden[rows], student_head)
        yield rows, student_raw, [_raw_logits(hidden[rows], head) for hidden, head in models]


def _raw_logits(hidden: Tensor, head: Tensor) -> Tensor:
    """hidden @ head.T, [n, V], in fp32 (fp64 for fp64), without gradients."""
    hidden, head = hidden.detach(), head.detach()
    if _multiplies_to_fp32(hidden):
        return torch.mm(hidden, head.T, out_dtype=torch.float32)
    logits = hidden @ head.T
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a @ b to ``total``, which is fp32 (fp64 for fp64)."""
    if _multiplies_to_fp32(b):
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total += a @ b


def _multiplies_to_fp32(matrix: Tensor) -> bool:
    """Whether a product of such matrices is to be had in fp32, without rounding to their own dtype in between."""
    return FP32_PRODUCTS and matrix.is_cuda and matrix.dtype in (torch.bfloat16, torch.float16)
