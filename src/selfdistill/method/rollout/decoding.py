"""What both of our decoding loops share: the prompts' forward pass, and one token per sequence through the layers.

Both are for decoders built like Llama's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from selfdistill.method.rollout.engine import cache_argument
from selfdistill.method.rollout.projections import LayerProjections, Projections, make_projections
from selfdistill.models.output_head import HeadTransform, decoder, head_transform
from selfdistill.types import Rollout

COMPACT_BELOW = 0.8
"""Finished sequences are removed from the batch once at most this share of it is unfinished."""
Write = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Stores the key and value of a new token, both [B, key-value heads, 1, D], of the layer with this index. Returns the
keys and values that the token may attend to, both [B, key-value heads, columns, D]."""


@dataclass(slots=True)
class State:
    """The B sequences that are being decoded, left-padded."""

    keys: list[Tensor]
    """Per layer: [B, key-value heads, columns, D], of which the first ``length`` columns are filled."""
    values: list[Tensor]
    """Per layer, like ``keys``."""
    length: int
    """Number of filled columns, padding included."""
    padding: Tensor
    """[B] int64: number of padding columns at the left."""
    hidden: Tensor
    """[B, H]: last hidden state of each sequence's last token."""
    owners: list[int]
    """Index of the prompt that each row belongs to."""

    def compact(self, finished: set[int]) -> Tensor | None:
        """Removes the sequences of ``finished`` prompts from the batch, if there are enough of them.

        Returns the rows that remain, [B'] int64, or None if nothing was removed. ``hidden`` is left as it is.
        """
        keep = [row for row, owner in enumerate(self.owners) if owner not in finished]
        if len(keep) > COMPACT_BELOW * len(self.owners):
            return None
        rows = torch.tensor(keep, device=self.padding.device)
        padding = self.padding[rows]
        spare = int(padding.min())  # columns that are padding in all remaining rows
        for layer in range(len(self.keys)):
            self.keys[layer] = self.keys[layer][rows, :, spare:]
            self.values[layer] = self.values[layer][rows, :, spare:]
        self.length -= spare
        self.padding = padding - spare
        self.owners = [self.owners[row] for row in keep]
        return rows


@dataclass(frozen=True, slots=True)
class Decoder:
    """The parts of a model that decode one token at a time."""

    body: Any
    """The decoder module: embeddings, layers and the last norm."""
    projections: Projections
    transform: HeadTransform

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [B, H] to logits [B, V] fp32."""
        (logits,) = self.projections.head(hidden)
        return self.transform(logits.float())

    def step(self, tokens: Tensor, positions: Tensor, bias: Tensor, write: Write) -> Tensor:
        """Runs one token per sequence through the layers.

        Args:
            tokens: [B] int64.
            positions: [B] int64, each token's place in its sequence, from 0.
            bias: [B, 1, 1, columns] in the model's dtype, added to the attention scores; -inf where there is nothing to
                attend to.
            write: stores the token's keys and values.

        Returns:
            Last hidden states [B, H].
        """
        body = self.body
        hidden = body.embed_tokens(tokens)[:, None]
        cos, sin = body.rotary_emb(hidden, position_ids=positions[:, None])
        cos, sin = cos[:, None], sin[:, None]
        for index, (layer, products) in enumerate(zip(body.layers, self.projections.layers, strict=True)):
            normed = _norm(layer.input_layernorm, hidden)
            (attended,) = products.output(_attend(index, layer.self_attn, products, normed, (cos, sin), bias, write))
            hidden = hidden + attended
            gate, up = products.gate_up(_norm(layer.post_attention_layernorm, hidden))
            (wide,) = products.down(layer.mlp.act_fn(gate) * up)
            hidden = hidden + wide
        return _norm(body.norm, hidden)[:, 0]


def make_decoder(model: PreTrainedModel, batch_size: int, max_new_tokens: int) -> Decoder:
    """Makes the decoder for one call of an engine, from the model's current weights; see ``make_projections``."""
    projections = make_projections(model, batch_size, max_new_tokens)
    return Decoder(body=decoder(model), projections=projections, transform=head_transform(model.config))


def prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_token_id: int, widen: Callable[[Tensor], Tensor]
) -> State:
    """Runs the left-padded prompts through the model's own forward pass.

    ``widen`` copies a layer's keys or values, [B, key-value heads, T, D], to a tensor with more columns.
    """
    device = model.device
    width = max(len(prompt) for prompt in prompts)
    pads = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[pad_token_id] * n + list(p) for n, p in zip(pads, prompts, strict=True)], device=device)
    padding = torch.tensor(pads, device=device)
    columns = torch.arange(width, device=device)
    cache = DynamicCache()
    body = decoder(model)
    output = body(
        input_ids=ids,
        attention_mask=(columns >= padding[:, None]).long() if any(pads) else None,
        position_ids=(columns - padding[:, None]).clamp(min=0),
        use_cache=True,
        **{cache_argument(body): cache},
    )
    layers: Any = cache.layers
    return State(
        keys=[widen(layer.keys) for layer in layers],
        values=[widen(layer.values) for layer in layers],
        length=width,
        padding=padding,
        hidden=output.last_hidden_state[:, -1],
        owners=list(range(len(prompts))),
    )


def advance(state: State, tokens: Tensor, decoder: Decoder) -> None:
    """Runs one token per sequence, [B] int64, through the decoder; sets state.hidden [B, H]."""
    start, end = state.length, state.length + 1
    columns = torch.arange(end, device=tokens.device)
    bias = torch.zeros(len(tokens), 1, 1, end, dtype=state.hidden.dtype, device=tokens.device)
    bias.masked_fill_((columns < state.padding[:, None])[:, None, None], float("-inf"))

    def write(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = state.keys[layer], state.values[layer]
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        return keys[:, :, :end], values[:, :, :end]

    state.hidden = decoder.step(tokens, start - state.padding, bias, write)
    state.length = end


def with_room(filled: Tensor, room: int) -> Tensor:
    """Copies [B, heads, T, dim] to [B, heads, T + room, dim], whose last ``room`` columns are uninitialised."""
    batch, heads, length, dim = filled.shape
    whole = filled.new_empty(batch, heads, length + room, dim)
    whole[:, :, :length] = filled
    return whole


def as_rollout(ids: Sequence[int], logprobs: Sequence[float] | None, eos: frozenset[int]) -> Rollout:
    """Makes a rollout of sampled ids, which end with an id of ``eos`` or at the token limit."""
    return Rollout(
        completion_ids=tuple(ids),
        finish_reason="stop" if ids[-1] in eos else "length",
        logprobs=None if logprobs is None else tuple(logprobs),
    )


def _attend(
    index: int,
    attention: Any,
    products: LayerProjections,
    hidden: Tensor,
    rotation: tuple[Tensor, Tensor],
    bias: Tensor,
    write: Write,
) -> Tensor:
    """Stores the new token's key and value and computes its attention.

    Args:
        index: the layer's index.
        attention: the layer's attention module.
        products: the layer's projections.
        hidden: [B, 1, H], normalised.
        rotation: cos and sin for the token's position, both [B, 1, 1, D].
        bias: [B, 1, 1, columns], added to the scores.
        write: stores the token's key and value.

    Returns:
        [B, 1, heads * D].
    """
    batch = len(hidden)
    shape = (batch, 1, -1, attention.head_dim)
    query, key, value = (output.view(shape) for output in products.query_key_value(hidden))
    if hasattr(attention, "q_norm"):
        query, key = _norm(attention.q_norm, query), _norm(attention.k_norm, key)
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    keys, values = write(index, _rotate(key, *rotation), value)
    # query heads that share a key-value head are treated as positions of one head
    grouped = _rotate(query, *rotation).view(batch, keys.shape[1], -1, attention.head_dim)
    output = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias, scale=attention.scaling)
    return output.reshape(batch, 1, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies the rotary position embedding to x [B, heads, 1, D], with cos and sin [B, 1, 1, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _norm(norm: Any, x: Tensor) -> Tensor:
    """RMS norm of x [..., H] with the parameters of a transformers module."""
    return functional.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)
