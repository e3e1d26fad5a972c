"""Causal attention for CPUs by plain matrix products.

torch's fused attention kernel for CPUs does not use the bf16 matrix units; batched matrix products do. Scores are
computed for a few sequences at a time, so that they fit the CPU's cache, and again in the backward pass, so that none
are stored. Used for decoders whose attention is a plain softmax.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from selfdistill.models.output_head import unwrapped

NAME = "selfdistill_cpu"
FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types whose attention is a plain softmax over all earlier positions, unless they use a sliding window."""
CHUNK_ELEMENTS = 1 << 22
"""Maximum number of attention scores held at once: 4.2 million, 8 MB in bf16."""


def has_plain_attention(config: Any) -> bool:
    """True for a model of FAMILIES in which no layer has a sliding window."""
    kinds = getattr(config, "layer_types", None) or []
    sliding = any(kind != "full_attention" for kind in kinds) or (
        config.model_type == "mistral" and getattr(config, "sliding_window", None) is not None
    )
    return config.model_type in FAMILIES and not sliding


def use_fast_attention(model: PreTrainedModel) -> None:
    """Switches a bf16 model on a CPU to this module's attention, if its attention is plain."""
    if model.device.type == "cpu" and model.dtype == torch.bfloat16 and has_plain_attention(model.config):
        model.set_attn_implementation(NAME)


def fit_attention(model: PreTrainedModel) -> None:
    """Switches a model that has left the CPU from this module's attention to torch's."""
    if model.device.type != "cpu" and getattr(model.config, "_attn_implementation", None) == NAME:
        unwrapped(model).set_attn_implementation("sdpa")


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """Returns softmax(scale * q k^T + mask) v; causal if there is no mask.

    Args:
        query: [B, heads, T, D].
        key: [B, key-value heads, T, D]; heads is a multiple of key-value heads.
        value: like key.
        scale: factor on the scores.
        mask: [B, 1, T, T] bool, True where a query may attend to a key. A row without any gives finite noise.

    Returns:
        [B, heads, T, D], in the dtype of ``query``, with gradients to query, key and value.
    """
    result = _GroupedAttention.apply(query, key, value, scale, mask)
    assert isinstance(result, Tensor)
    return result


class _GroupedAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        for rows in _chunks(query):
            weights = _weights(query[rows], key[rows], scale, None if mask is None else mask[rows])
            output[rows] = (weights @ _flat(value[rows])).view_as(output[rows])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, mask = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
        for rows in _chunks(query):
            weights = _weights(query[rows], key[rows], ctx.scale, None if mask is None else mask[rows])
            grad_output = _grouped(grad[rows], key.shape[1])
            grad_weights = grad_output @ _flat(value[rows]).transpose(1, 2)
            # softmax: d score = weight * (d weight - sum of d weight * weight)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype) * ctx.scale
            grads[0][rows] = (grad_scores @ _flat(key[rows])).view_as(query[rows])
            grads[1][rows] = (grad_scores.transpose(1, 2) @ _grouped(query[rows], key.shape[1])).view_as(key[rows])
            grads[2][rows] = (weights.transpose(1, 2) @ grad_output).view_as(value[rows])
        return (*grads, None, None)


def _weights(query: Tensor, key: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """Attention weights [b * key-value heads, heads per key-value head * T, T]."""
    batch, heads, length, _ = query.shape
    kv_heads = key.shape[1]
    scores = (_grouped(query, kv_heads) @ _flat(key).transpose(1, 2)).mul_(scale)
    shaped = scores.view(batch, heads, length, length)
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril_()
    # finite, so that a padded position without any key gives noise, which is not used, instead of NaN
    shaped.masked_fill_(~mask, torch.finfo(shaped.dtype).min)
    return shaped.softmax(-1).view_as(scores)


def _grouped(x: Tensor, kv_heads: int) -> Tensor:
    """[b, heads, T, D] to [b * kv_heads, heads / kv_heads * T, D]: heads that share keys are concatenated."""
    batch, heads, length, dim = x.shape
    return x.reshape(batch * kv_heads, heads // kv_heads * length, dim)


def _flat(x: Tensor) -> Tensor:
    """[b, kv_heads, T, D] to [b * kv_heads, T, D]."""
    return x.reshape(-1, *x.shape[2:])


def _chunks(query: Tensor) -> list[slice]:
    """Slices of the batch with at most CHUNK_ELEMENTS scores each, or one sequence."""
    batch, heads, length, _ = query.shape
    size = max(1, CHUNK_ELEMENTS // (heads * length * length))
    return [slice(start, min(start + size, batch)) for start in range(0, batch, size)]


def _forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The function that transformers calls. Its decoding steps (fewer queries than keys) use torch's kernel."""
    boolean = attention_mask is None or attention_mask.dtype == torch.bool
    if query.shape[2] != key.shape[2] or not boolean:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    return grouped_attention(query, key, value, scale, attention_mask).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
