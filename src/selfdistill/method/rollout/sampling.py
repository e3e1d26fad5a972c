"""Drawing tokens from logits, with one stream of random numbers for each sequence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from selfdistill.method.rollout.engine import Sampling

BLOCK = 512
"""Tokens that are summed up together where cumulative sums are made of matrix products."""


def uniforms(seeds: Sequence[int] | None, count: int, device: torch.device) -> Tensor | None:
    """Uniform random numbers in [0, 1), [sequences, count], a function of each sequence's seed alone; None without
    seeds. They are drawn on the CPU, so that every device gets the same; fp64 on a CPU, fp32 elsewhere."""
    if seeds is None:
        return None
    rows = [torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    drawn = torch.stack(rows) if rows else torch.zeros(0, count, dtype=torch.float64)
    return drawn if device.type == "cpu" else drawn.float().to(device)


def sample(logits: Tensor, sampling: Sampling, drawn: Tensor | None) -> tuple[Tensor, Tensor]:
    """Tokens [B] int64 drawn from logits [B, V] fp32, and their logprobs [B] at the sampling temperature.

    ``drawn``: a uniform number [B] for each sequence; None for greedy decoding, whose logprobs are 0.
    """
    if sampling.temperature == 0 or drawn is None:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros_like(tokens, dtype=logits.dtype)
    log_probs = (logits / sampling.temperature).log_softmax(-1)
    probs = log_probs.exp()
    if sampling.top_p < 1:
        ordered, index = probs.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # the first token is always kept
        probs = torch.zeros_like(probs).scatter(-1, index, ordered.masked_fill(before >= sampling.top_p, 0))
    # inverse transform: one uniform number a sequence, where torch.multinomial draws one for every token
    tokens = by_cumulative_sum(probs, drawn) if probs.device.type == "cpu" else by_blocks(probs, drawn)
    return tokens, log_probs.gather(-1, tokens[:, None])[:, 0]


def by_cumulative_sum(probs: Tensor, drawn: Tensor) -> Tensor:
    """Indices [B] whose cumulative probability in ``probs`` [B, V] first exceeds ``drawn`` [B]; in fp64."""
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    threshold = drawn[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).clamp(max=probs.shape[-1] - 1)[:, 0]


def by_blocks(probs: Tensor, drawn: Tensor) -> Tensor:
    """The same in the dtype of ``probs``, first block, then token: for devices without fp64, and where cumulative
    sums of long rows are slow or not deterministic."""
    size = -(-probs.shape[-1] // BLOCK)
    blocks = torch.nn.functional.pad(probs, (0, size * BLOCK - probs.shape[-1])).view(len(probs), size, BLOCK)
    cumulative = _cumulative(blocks.sum(-1))
    threshold = drawn.to(probs.dtype) * cumulative[:, -1]
    block = _first_above(cumulative, threshold)
    rows = torch.arange(len(probs), device=probs.device)
    before = torch.where(block > 0, cumulative[rows, (block - 1).clamp(min=0)], 0)
    inner = _cumulative(blocks[rows, block])
    return block * BLOCK + _first_above(inner, threshold - before)


def _cumulative(values: Tensor) -> Tensor:
    """Cumulative sums along the last dimension, [B, n] to [B, n]."""
    size = values.shape[-1]
    return values @ torch.ones(size, size, dtype=values.dtype, device=values.device).triu()


def _first_above(cumulative: Tensor, threshold: Tensor) -> Tensor:
    """Index [B] of the first of ``cumulative`` [B, n] above ``threshold`` [B]; never one that adds nothing."""
    last = (cumulative < cumulative[:, -1:]).sum(-1)
    return torch.minimum((cumulative <= threshold[:, None]).sum(-1), last)
