"""A decoder's linear layers as decoding wants them: those of the same input in one product, weights packed on a CPU.

With a few rows at a time a product takes as long as its weights take to arrive. oneDNN reads them faster from
blocks of its own. Packing copies all weights once a call and pays after a few tokens.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from selfdistill.models.output_head import decoder, output_head

Projection = Callable[[Tensor], Sequence[Tensor]]
"""From [..., K] to the outputs [..., N] of one linear layer or of several."""
PACKED_BYTES = 2**30
"""Larger models are not packed: a second copy of their weights may not fit."""
FEWEST_TOKENS = 8
"""Completions that are shorter don't make up for the packing."""


@dataclass(frozen=True, slots=True)
class LayerProjections:
    """The linear layers of one decoder layer."""

    query_key_value: Projection
    output: Projection
    gate_up: Projection
    down: Projection


@dataclass(frozen=True, slots=True)
class Projections:
    """Every linear layer of a model that is built like Llama, its output head included."""

    layers: list[LayerProjections]
    head: Projection


def make_projections(model: Any, batch_size: int, max_new_tokens: int) -> Projections:
    """What one call of an engine needs; weights as they are now.

    Args:
        model: the model, LoRA and all. Layers with an adapter stay as they are.
        batch_size: rows that the blocks are chosen for; others work, too.
        max_new_tokens: how long the completions may become.
    """
    head = output_head(model)
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    pays = max_new_tokens >= FEWEST_TOKENS and size <= PACKED_BYTES and _can_pack(head)

    def made(*layers: nn.Module) -> Projection:
        return _packed(layers, batch_size) if pays and _alike(layers) else lambda x: [layer(x) for layer in layers]

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
        return [x @ head.T if packed_head is None else packed_head(x)]

    return Projections(layers=layers, head=last)


def _alike(layers: Sequence[Any]) -> bool:
    """Whether they are plain bf16 layers, all with a bias or all without one."""
    plain = all(type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16 for layer in layers)
    return plain and len({layer.bias is None for layer in layers}) == 1


def _can_pack(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and _packing_works()


@functools.cache
def _packing_works() -> bool:
    """Tries it: the operators belong to torch's compiler, which may change them, and not every processor has them."""
    x, weight = torch.eye(4, 64, dtype=torch.bfloat16), torch.ones(32, 64, dtype=torch.bfloat16)
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
