"""Linear layers regrouped for decoding: layers that share an input become one product, and on a CPU weights are packed.

With few rows a product is limited by the time to read its weights, which oneDNN reads faster from its own block layout.
Packing copies all weights once per call of an engine and pays off after a few tokens. Weights in bf16 and fp32 are
packed; where an fp32 product has very few rows, the layers themselves are as fast, and run as they are.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from selfdistill.models.output_head import decoder, output_head

Projection = Callable[[Tensor], Sequence[Tensor]]
"""Maps [..., K] to the outputs [..., N] of one or several linear layers with the same input."""
PACKED_BYTES = 2**30
"""Maximum size of the weights to pack, in bytes: a second copy of larger ones may not fit into memory. In fp32 that is
half as many weights."""
FEWEST_PACKED_ROWS = {torch.bfloat16: 1, torch.float32: 4}
"""The dtypes that are packed, and the minimum number of rows for which a packed product is faster than the layer's. MKL
packs fp32, too, but in two to nine times the bytes and for one number of rows, while finished sequences leave."""
FEWEST_TOKENS = 8
"""Minimum token limit of a completion for which packing pays off."""


@dataclass(frozen=True, slots=True)
class LayerProjections:
    """The linear layers of one decoder layer. H is the hidden size, D the head size, F the width of the gated block."""

    query_key_value: Projection
    """[..., H] to queries [..., heads * D], keys and values [..., key-value heads * D]."""
    output: Projection
    """[..., heads * D] to [..., H], as a sequence of one."""
    gate_up: Projection
    """[..., H] to gate and up [..., F]."""
    down: Projection
    """[..., F] to [..., H], as a sequence of one."""


@dataclass(frozen=True, slots=True)
class Projections:
    """All linear layers of a model built like Llama, including its output head."""

    layers: list[LayerProjections]
    head: Projection
    """[..., H] to raw logits [..., V], as a sequence of one."""


def make_projections(model: Any, batch_size: int, max_new_tokens: int) -> Projections:
    """Makes the projections for one call of an engine, from the model's current weights.

    Args:
        model: the model, with or without LoRA. Layers with an adapter are not regrouped.
        batch_size: number of rows that the packed layout is chosen for; others work too.
        max_new_tokens: token limit of the completions.
    """
    head = output_head(model)
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    fewest = FEWEST_PACKED_ROWS.get(head.dtype, 0)
    pays = max_new_tokens >= FEWEST_TOKENS and batch_size >= fewest and size <= PACKED_BYTES and _can_pack(head)

    def made(*layers: nn.Module) -> Projection:
        def plain(x: Tensor) -> Sequence[Tensor]:
            return [layer(x) for layer in layers]

        if not (pays and _alike(layers, head.dtype)):
            return plain
        packed = _packed(layers, batch_size)
        return lambda x: packed(x) if _num_rows(x) >= fewest else plain(x)

    body: Any = decoder(model)
    layers = []
    for layer in body.layers:
        attention, mlp = layer.self_attn, layer.mlp
        layers.append(
            LayerProjections(
                query_key_value=made(attention.q_proj, attention.k_proj, attention.v_proj),
                output=made(attention.o_proj),
                gate_up=made(mlp.gate_proj, mlp.up_proj),
                down=made(mlp.down_proj),
            )
        )
    packed_head = _packed_weight(head, None, batch_size) if pays else None

    def last(x: Tensor) -> list[Tensor]:
        return [x @ head.T if packed_head is None or _num_rows(x) < fewest else packed_head(x)]

    return Projections(layers=layers, head=last)


def _num_rows(x: Tensor) -> int:
    """Number of vectors in x [..., K]."""
    return x.numel() // x.shape[-1]


def _alike(layers: Sequence[Any], dtype: torch.dtype) -> bool:
    """Whether all are plain linear layers of this dtype, and all or none have a bias."""
    plain = all(type(layer) is nn.Linear and layer.weight.dtype == dtype for layer in layers)
    return plain and len({layer.bias is None for layer in layers}) == 1


def _can_pack(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in FEWEST_PACKED_ROWS and _packing_works(weight.dtype)


@functools.cache
def _packing_works(dtype: torch.dtype) -> bool:
    """Tries it out, because these internal operators of torch may change and not every processor supports them."""
    x, weight = torch.eye(4, 64, dtype=dtype), torch.ones(32, 64, dtype=dtype)
    try:
        return torch.equal(_packed_weight(weight, None, 4)(x), x @ weight.T)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _packed(layers: Sequence[Any], batch_size: int) -> Projection:
    weight = torch.cat([layer.weight for layer in layers])
    biases = [layer.bias for layer in layers]
    product = _packed_weight(weight, None if biases[0] is None else torch.cat(biases), batch_size)
    sizes = [layer.out_features for layer in layers]

    def project(x: Tensor) -> Sequence[Tensor]:
        return product(x).split(sizes, dim=-1)

    return project


def _packed_weight(weight: Tensor, bias: Tensor | None, batch_size: int) -> Callable[[Tensor], Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), batch_size)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
