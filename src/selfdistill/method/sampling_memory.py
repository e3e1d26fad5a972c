"""Memory that sampling takes, as part of the estimate of a training run."""

from typing import Any, NamedTuple

import torch

from selfdistill.method.memory_parts import TeacherSize, widths
from selfdistill.method.methods import METHODS
from selfdistill.method.rollout.engine import BATCH_SIZE
from selfdistill.method.rollout.projections import FEWEST_PACKED_ROWS, PACKED_BYTES
from selfdistill.method.rollout.vllm import cache_bytes
from selfdistill.method.sources import source, teacher_writes
from selfdistill.settings.method import MethodConfig


class SamplingBytes(NamedTuple):
    """What an engine takes."""

    passing: int
    """While it samples."""
    standing: int
    """From step to step."""


def sampling_bytes(
    config: Any,
    teacher: TeacherSize,
    args: MethodConfig,
    prompts: int,
    longest: int,
    weight_bytes: int,
    width: int,
    card_bytes: int | None,
) -> SamplingBytes:
    """Bytes that the models that write completions take.

    Args:
        config: the model's transformers config.
        teacher: the teacher.
        args: the settings.
        prompts: number of completions in a step, without those of anchor prompts.
        longest: tokens of the student's longest prompt.
        weight_bytes: of the model without an adapter.
        width: bytes of a number that the model computes with.
        card_bytes: the GPU's memory; None on a CPU.
    """
    share, text = args.anchor_share, config.get_text_config(decoder=True)
    sampled = round(prompts * share / (1 - share)) + (prompts if METHODS[args.method].samples else 0)
    if args.rollout_engine == "vllm-server" or not sampled:
        return SamplingBytes(0, 0)
    taught = teacher_writes(args)
    if args.rollout_engine == "vllm":
        if card_bytes is not None:
            return SamplingBytes(round(args.vllm_memory_share * card_bytes), 0)
        row = max(longest, teacher.longest_prompt if taught else 0) + args.max_completion_length
        return SamplingBytes(0, weight_bytes + cache_bytes(config, width, row, min(sampled, BATCH_SIZE)))
    packable = weight_bytes if card_bytes is None else 0
    own = _of_a_writer(text, args, sampled, longest, width, packable)
    weights = teacher.weight_bytes or packable if card_bytes is None else 0
    others = _of_a_writer(teacher.text(text), args, sampled, teacher.longest_prompt, width, weights)
    if source(args).together:
        return SamplingBytes(own + others, 0)
    return SamplingBytes(max(own, others) if taught else own, 0)


def _of_a_writer(text: Any, args: MethodConfig, sampled: int, prompt: int, width: int, packable: int) -> int:
    """What one model takes in sampling: the key-value cache of one batch, plus a second copy of its prompt part while
    the cache grows, plus 28 bytes per logit; and the packed copy of ``packable`` bytes of weights, if they are packed.
    """
    batch = min(sampled, BATCH_SIZE)
    cache = text.num_hidden_layers * 2 * widths(text)[3] * width
    fewest = FEWEST_PACKED_ROWS[torch.float32 if width == 4 else torch.bfloat16]
    packed = packable if sampled >= fewest and packable <= PACKED_BYTES else 0
    return batch * (cache * (2 * prompt + args.max_completion_length) + 28 * text.vocab_size) + packed
