"""Rollouts by our own decoding loop: fewer operations per token, and finished sequences leave the batch.

The prompt goes through the model's own forward pass. Each step then runs one token per sequence through the layers'
projections, with a key-value cache that is allocated once. The loop supports decoders built like Llama's and is used
only if its logits are the model's (``why_not_own``); other models use transformers' generate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from selfdistill.method.rollout.engine import InProcessEngine, OnDone, Sampling, cache_argument, in_batches
from selfdistill.method.rollout.projections import LayerProjections, Projections, make_projections
from selfdistill.method.rollout.sampling import sample, uniforms
from selfdistill.models.attention import has_plain_attention
from selfdistill.models.mode import evaluating
from selfdistill.models.output_head import HeadTransform, decoder, head_transform
from selfdistill.types import Rollout

COMPACT_BELOW = 0.8
"""Finished sequences are removed from the batch once at most this share of it is unfinished."""


class OwnEngine(InProcessEngine):
    """Samples completions of a Llama-like model."""

    @cached_property
    def _eos(self) -> Tensor:
        """The ids that end a completion, int64, on the model's device."""
        return torch.tensor(sorted(self.eos_token_ids), dtype=torch.int64, device=self.model.device)

    @cached_property
    def _transform(self) -> HeadTransform:
        return head_transform(self.model.config)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """As in RolloutEngine. Logprobs are at the sampling temperature, before top_p."""
        rows = min(self.batch_size, max(1, len(prompts)))
        with evaluating(self.model):
            projections = make_projections(self.model, rows, sampling.max_new_tokens)
            return in_batches(
                prompts,
                sampling,
                self.batch_size,
                lambda batch, own: self._complete(batch, own, projections),
                on_done,
            )

    def decoding_error(self) -> float:
        """Largest difference between this loop's logits and those of the model's own forward pass on two short prompts,
        relative to the largest absolute logit."""
        model = self.model
        size = int(model.config.get_text_config(decoder=True).vocab_size)
        prompts = [[(7 * place + 3) % size for place in range(length)] for length in (5, 3)]
        with evaluating(model):
            projections = make_projections(model, len(prompts), 1)
            state = self._prefill(prompts, 2)
            ends = self._logits(state.hidden, projections)
            tokens = ends.argmax(-1)
            self._step(state, tokens, projections)
            ours = torch.cat([ends, self._logits(state.hidden, projections)])
            rows = [[*prompt, token] for prompt, token in zip(prompts, tokens.tolist(), strict=True)]
            whole = [
                model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0, -2:].float()
                for row in rows
            ]
        theirs = torch.stack([logits[place] for place in (0, 1) for logits in whole])
        return float((ours - theirs).abs().max() / theirs.abs().max())

    def _complete(self, prompts: list[Sequence[int]], sampling: Sampling, projections: Projections) -> list[Rollout]:
        state = self._prefill(prompts, sampling.max_new_tokens)
        drawn = uniforms(sampling.seeds, sampling.max_new_tokens, self.model.device)
        ids: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        finished: set[int] = set()
        for step in range(sampling.max_new_tokens):
            numbers = None if drawn is None else drawn[state.owners, step]
            tokens, token_logprobs = sample(self._logits(state.hidden, projections), sampling, numbers)
            ended = torch.isin(tokens, self._eos)
            rows = zip(state.owners, tokens.tolist(), token_logprobs.tolist(), ended.tolist(), strict=True)
            for owner, token, logprob, end in rows:
                if owner in finished:
                    continue
                ids[owner].append(token)
                logprobs[owner].append(logprob)
                if end:
                    finished.add(owner)
            if len(finished) == len(prompts) or step + 1 == sampling.max_new_tokens:
                break
            tokens = self._compact(state, tokens, finished)
            self._step(state, tokens, projections)
        return [
            Rollout(
                completion_ids=tuple(ids[owner]),
                finish_reason="stop" if owner in finished else "length",
                logprobs=tuple(logprobs[owner]) if sampling.logprobs else None,
            )
            for owner in range(len(prompts))
        ]

    def _prefill(self, prompts: Sequence[Sequence[int]], room: int) -> "_State":
        """Runs the left-padded prompts through the model's own forward pass; the cache gets ``room`` more columns."""
        device = self.model.device
        width = max(len(prompt) for prompt in prompts)
        pads = [width - len(prompt) for prompt in prompts]
        ids = torch.tensor(
            [[self.pad_token_id] * n + list(p) for n, p in zip(pads, prompts, strict=True)], device=device
        )
        padding = torch.tensor(pads, device=device)
        columns = torch.arange(width, device=device)
        cache = DynamicCache()
        body = decoder(self.model)
        output = body(
            input_ids=ids,
            attention_mask=(columns >= padding[:, None]).long() if any(pads) else None,
            position_ids=(columns - padding[:, None]).clamp(min=0),
            use_cache=True,
            **{cache_argument(body): cache},
        )
        layers: Any = cache.layers
        keys = [_with_room(layer.keys, room) for layer in layers]
        values = [_with_room(layer.values, room) for layer in layers]
        return _State(
            keys=keys,
            values=values,
            length=width,
            padding=padding,
            hidden=output.last_hidden_state[:, -1],
            owners=list(range(len(prompts))),
        )

    def _compact(self, state: "_State", tokens: Tensor, finished: set[int]) -> Tensor:
        """Removes finished sequences from the batch once there are enough; returns the others' tokens, [B] to [B']."""
        keep = [row for row, owner in enumerate(state.owners) if owner not in finished]
        if len(keep) > COMPACT_BELOW * len(state.owners):
            return tokens
        index = torch.tensor(keep, device=tokens.device)
        padding = state.padding[index]
        spare = int(padding.min())  # columns that are padding in all remaining rows
        for layer in range(len(state.keys)):
            state.keys[layer] = state.keys[layer][index, :, spare:]
            state.values[layer] = state.values[layer][index, :, spare:]
        state.length -= spare
        state.padding = padding - spare
        state.owners = [state.owners[row] for row in keep]
        return tokens[index]

    def _logits(self, hidden: Tensor, projections: Projections) -> Tensor:
        """Hidden states [B, H] to logits [B, V] fp32."""
        (logits,) = projections.head(hidden)
        return self._transform(logits.float())

    def _step(self, state: "_State", tokens: Tensor, projections: Projections) -> None:
        """Runs one token per sequence, [B] int64, through the decoder; sets state.hidden [B, H]."""
        body: Any = decoder(self.model)
        end = state.length + 1
        positions = (state.length - state.padding)[:, None]
        hidden = body.embed_tokens(tokens)[:, None]
        cos, sin = body.rotary_emb(hidden, position_ids=positions)
        cos, sin = cos[:, None], sin[:, None]
        columns = torch.arange(end, device=tokens.device)
        bias = torch.zeros(len(tokens), 1, 1, end, dtype=hidden.dtype, device=tokens.device)
        bias.masked_fill_((columns < state.padding[:, None])[:, None, None], float("-inf"))
        caches = zip(state.keys, state.values, strict=True)
        for layer, products, (keys, values) in zip(body.layers, projections.layers, caches, strict=True):
            normed = _norm(layer.input_layernorm, hidden)
            (attended,) = products.output(_attend(layer.self_attn, products, normed, cos, sin, keys, values, bias))
            hidden = hidden + attended
            gate, up = products.gate_up(_norm(layer.post_attention_layernorm, hidden))
            (wide,) = products.down(layer.mlp.act_fn(gate) * up)
            hidden = hidden + wide
        state.length = end
        state.hidden = _norm(body.norm, hidden)[:, 0]


@dataclass(slots=True)
class _State:
    """The B sequences that are being decoded, left-padded."""

    keys: list[Tensor]
    """Per layer: [B, key-value heads, columns, head dim], of which the first ``length`` columns are filled."""
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


def _attend(
    attention: Any,
    products: LayerProjections,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
) -> Tensor:
    """Writes the new token's key and value to the cache and computes its attention to all cached tokens.

    Args:
        attention: the layer's attention module.
        products: the layer's projections.
        hidden: [B, 1, H], normalised.
        cos: [B, 1, 1, D], for the token's position.
        sin: like cos.
        keys: [B, key-value heads, columns, D].
        values: like keys.
        bias: [B, 1, 1, length], added to the scores; -inf at padding.

    Returns:
        [B, 1, heads * D].
    """
    batch, end = hidden.shape[0], bias.shape[-1]
    shape = (batch, 1, -1, attention.head_dim)
    query, key, value = (output.view(shape) for output in products.query_key_value(hidden))
    if hasattr(attention, "q_norm"):
        query, key = _norm(attention.q_norm, query), _norm(attention.k_norm, key)
    query, key = query.transpose(1, 2), key.transpose(1, 2)
    keys[:, :, end - 1 : end] = _rotate(key, cos, sin)
    values[:, :, end - 1] = value[:, 0]
    # query heads that share a key-value head are treated as positions of one head
    grouped = _rotate(query, cos, sin).view(batch, keys.shape[1], -1, attention.head_dim)
    output = functional.scaled_dot_product_attention(
        grouped, keys[:, :, :end], values[:, :, :end], attn_mask=bias, scale=attention.scaling
    )
    return output.reshape(batch, 1, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies the rotary position embedding to x [B, heads, 1, D], with cos and sin [B, 1, 1, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _norm(norm: Any, x: Tensor) -> Tensor:
    """RMS norm of x [..., H] with the parameters of a transformers module."""
    return functional.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def _with_room(filled: Tensor, room: int) -> Tensor:
    """Copies [B, heads, T, dim] to [B, heads, T + room, dim], whose last ``room`` columns are uninitialised."""
    batch, heads, length, dim = filled.shape
    whole = filled.new_empty(batch, heads, length + room, dim)
    whole[:, :, :length] = filled
    return whole


@torch.no_grad()
def why_not_own(model: PreTrainedModel) -> str | None:
    """Returns a sentence saying why our decoding loop can't be used for a model; None if it can.

    It can if the model's family is known and the loop gives the logits of the model's own forward pass, at the end of
    the prompt and after one decoded token, for two prompts of different lengths. Costs four small forward passes.
    """
    kind = model.config.model_type
    if not has_plain_attention(model.config):
        return f"Our decoding loop does not know models of type {kind}."
    try:
        error = OwnEngine(model, (), 0).decoding_error()
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as failure:
        return f"Our decoding loop fails on this model of type {kind} ({type(failure).__name__})."
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.05
    if error <= tolerance:
        return None
    return f"Our decoding loop gives other logits than this model of type {kind} (relative error {error:.2g})."
