"""Matrix FLOPs of a self-distillation step, counted from shapes: what has to be computed, nothing twice.

A product of [m, k] and [k, n] matrices is 2 m k n FLOPs. Only real tokens count, no padding; causal attention
counts the positions that are seen; the output head counts where a token is predicted that is needed; a backward
pass is twice its forward pass. Work that an implementation repeats or wastes is left out, so that
share = FLOPs / seconds / peak is comparable between implementations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a decoder built like Llama's."""

    layers: int
    hidden: int
    inner: int
    """Width of the MLP."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """From a transformers config."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            heads=heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
        )

    @property
    def body_weights(self) -> int:
        """Weights that every token is multiplied with."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def head_weights(self) -> int:
        """Weights of the output head."""
        return self.vocabulary * self.hidden


def sequence_flops(shape: Shape, length: int) -> int:
    """Forward pass of one sequence through the layers, the output head left out."""
    seen = length * (length + 1) // 2
    return 2 * shape.body_weights * length + 4 * shape.layers * shape.heads * shape.head_dim * seen


def step_flops(shape: Shape, student: Sequence[int], teacher: Sequence[int], completions: Sequence[int]) -> int:
    """One optimizer step: sampling, the teacher's forward pass, the student's forward and backward pass.

    Args:
        shape: the model's.
        student: tokens of each student prompt.
        teacher: tokens of each teacher prompt.
        completions: tokens of each completion. Its last token is predicted, but not read.
    """
    read = [(s + c - 1, t + c - 1) for s, t, c in zip(student, teacher, completions, strict=True)]
    head = 2 * shape.head_weights * sum(completions)
    # sampling with a key-value cache reads every token once, as a forward pass does
    sampling_and_student = sum(4 * sequence_flops(shape, s) for s, _ in read) + 4 * head
    return sampling_and_student + sum(sequence_flops(shape, t) for _, t in read) + head
