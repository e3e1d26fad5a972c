"""Memory that sampling takes, as part of the estimate of a training run."""

from typing import Any, NamedTuple

import torch

from selfdistill.method.methods import METHODS
from selfdistill.method.rollout.engine import BATCH_SIZE
from selfdistill.method.rollout.projections import FEWEST_PACKED_ROWS, PACKED_BYTES
from selfdistill.method.rollout.vllm import cache_bytes
from selfdistill.settings.method import MethodConfig


class SamplingBytes(NamedTuple):
    """What an engine takes."""

    passing: int
    """While it samples."""
    standing: int
    """From step to step."""


def sampling_bytes(
    config: Any, args: MethodConfig, prompts: int, longest: int, weight_bytes: int, width: int, card_bytes: int | None
) -> SamplingBytes:
    """Bytes that the engine of ``args`` takes.

    Args:
        config: the model's transformers config.
        args: the settings.
        prompts: number of them in a step, without anchor prompts.
        longest: tokens of the longest prompt.
        weight_bytes: of the model without an adapter.
        width: bytes of a number that the model computes with.
        card_bytes: the GPU's memory; None on a CPU.
    """
    share, text, completion = args.anchor_share, config.get_text_config(decoder=True), args.max_completion_length
    sampled = round(prompts * share / (1 - share)) + (prompts if METHODS[args.method].samples else 0)
    batch = min(sampled, BATCH_SIZE)
    if args.rollout_engine == "vllm-server" or not sampled:
        return SamplingBytes(0, 0)
    if args.rollout_engine == "vllm":
        if card_bytes is not None:
            return SamplingBytes(round(args.vllm_memory_share * card_bytes), 0)
        return SamplingBytes(0, weight_bytes + cache_bytes(config, width, longest + completion, batch))
    packed = _packed(weight_bytes, width, sampled) if card_bytes is None else 0
    return SamplingBytes(_cache_and_logits(text, batch, longest, completion, width) + packed, 0)


def widths(text: Any) -> tuple[int, int, int, int]:
    """Hidden size, width of the gated block, total width of the query heads, total width of the key heads."""
    hidden, heads = text.hidden_size, text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or hidden // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return hidden, getattr(text, "intermediate_size", None) or 4 * hidden, heads * head_dim, kv_heads * head_dim


def _cache_and_logits(text: Any, batch: int, prompt: int, completion: int, width: int) -> int:
    """Key-value cache of one batch, plus a second copy of its prompt part while the cache grows, plus 28 bytes per
    logit for sampling."""
    cache = text.num_hidden_layers * 2 * widths(text)[3] * width
    return batch * (cache * (2 * prompt + completion) + 28 * text.vocab_size)


def _packed(weights: int, width: int, sampled: int) -> int:
    """Bytes of the packed copy of the weights that decoding reads on a CPU."""
    fewest = FEWEST_PACKED_ROWS[torch.float32 if width == 4 else torch.bfloat16]
    return weights if sampled >= fewest and weights <= PACKED_BYTES else 0
