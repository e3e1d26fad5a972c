"""Draws tokens from logits, with one stream of random numbers per sequence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from selfdistill.method.rollout.engine import Sampling

BLOCK = 512
"""Size of the blocks of tokens in ``by_blocks``."""


def uniforms(seeds: Sequence[int] | None, count: int, device: torch.device) -> Tensor | None:
    """Returns uniform numbers in [0, 1), [sequences, count], each row a function of its seed; None without seeds.

    They are drawn on the CPU, so that they are the same for every device; fp64 on a CPU, fp32 elsewhere.
    """
    if seeds is None:
        return None
    rows = [torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    drawn = torch.stack(rows) if rows else torch.zeros(0, count, dtype=torch.float64)
    return drawn if device.type == "cpu" else drawn.float().to(device)


def sample(logits: Tensor, sampling: Sampling, drawn: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draws tokens [B] int64 from logits [B, V] fp32; returns them and their logprobs [B] fp32 in nats.

    Logprobs are at the sampling temperature, before top_p; in greedy decoding they are 0. ``drawn`` [B] holds a uniform
    number in [0, 1) per sequence; None for greedy decoding.
    """
    if sampling.temperature == 0 or drawn is None:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros_like(tokens, dtype=logits.dtype)
    log_probs = (logits / sampling.temperature).log_softmax(-1)
    probs = log_probs.exp()
    if sampling.top_p < 1:
        ordered, index = probs.sort(dim=-1, descending=True)
        sums = ordered.cumsum(-1) if ordered.device.type == "cpu" else cumulative_by_blocks(ordered)
        before = sums - ordered  # 0 for the first token, which is therefore always kept
        probs = torch.zeros_like(probs).scatter(-1, index, ordered.masked_fill(before >= sampling.top_p, 0))
    # inverse transform sampling needs one uniform number per sequence; torch.multinomial needs one per vocabulary entry
    tokens = by_cumulative_sum(probs, drawn) if probs.device.type == "cpu" else by_blocks(probs, drawn)
    return tokens, log_probs.gather(-1, tokens[:, None])[:, 0]


def by_cumulative_sum(probs: Tensor, drawn: Tensor) -> Tensor:
    """First index [B] at which the fp64 cumulative sum of ``probs`` [B, V] exceeds ``drawn`` [B] times its total."""
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    threshold = drawn[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).clamp(max=probs.shape[-1] - 1)[:, 0]


def by_blocks(probs: Tensor, drawn: Tensor) -> Tensor:
    """The same in the dtype of ``probs``: finds the block first, then the token in it.

    For devices without fp64, or on which cumulative sums of long rows are slow or not deterministic.
    """
    blocks = _blocks(probs)
    cumulative = _cumulative(blocks.sum(-1))
    threshold = drawn.to(probs.dtype) * cumulative[:, -1]
    block = _first_above(cumulative, threshold)
    rows = torch.arange(len(probs), device=probs.device)
    before = torch.where(block > 0, cumulative[rows, (block - 1).clamp(min=0)], 0)
    inner = _cumulative(blocks[rows, block])
    return block * BLOCK + _first_above(inner, threshold - before)


def _blocks(values: Tensor) -> Tensor:
    """[B, V] to blocks [B, ceil(V / BLOCK), BLOCK], the last one padded with 0."""
    count = -(-values.shape[-1] // BLOCK)
    padded = torch.nn.functional.pad(values, (0, count * BLOCK - values.shape[-1]))
    return padded.view(len(values), count, BLOCK)


def cumulative_by_blocks(values: Tensor) -> Tensor:
    """Cumulative sums [B, V] of values [B, V]; torch's own are not deterministic on CUDA."""
    inner = _cumulative(_blocks(values))
    totals = inner[..., -1]
    before = _cumulative(totals) - totals
    return (inner + before[..., None]).flatten(1)[:, : values.shape[-1]]


def _cumulative(values: Tensor) -> Tensor:
    """Cumulative sums along the last dimension, [..., n] to [..., n], by a matrix product."""
    size = values.shape[-1]
    return values @ torch.ones(size, size, dtype=values.dtype, device=values.device).triu()


def _first_above(cumulative: Tensor, threshold: Tensor) -> Tensor:
    """Index [B] of the first value of ``cumulative`` [B, n] above ``threshold`` [B]; never one with probability 0."""
    last = (cumulative < cumulative[:, -1:]).sum(-1)
    return torch.minimum((cumulative <= threshold[:, None]).sum(-1), last)
