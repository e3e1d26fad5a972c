"""How long training and scoring take on this machine: the tokens that the model computes, times its measured speed.

Every completion counts as long as it may become, and a backward pass as two forward passes. The output head counts at
every token instead of at those of the loss: about what the loss, the optimizer and the teacher's update cost.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from selfdistill.method.lengths import length_limits, most_teacher_tokens
from selfdistill.method.methods import METHODS
from selfdistill.method.rollout.engine import BATCH_SIZE
from selfdistill.method.sources import mixture_share, source, target_of
from selfdistill.models.device import compute_dtype
from selfdistill.models.mode import evaluating
from selfdistill.models.tokens import vocab_size
from selfdistill.settings.method import MethodConfig
from selfdistill.training.prepare import Prepared

PADDED = 1.1
"""Tokens in a padded batch for each token of its rows. Those of the demo give 1.10 in micro-batches of 8."""
READ_AT_ONCE = (4, 64)
"""Sequences, and tokens of each, in the measured forward pass: so many that reading the weights takes little of it."""
TRIES = 3
"""Measurements, of which the fastest counts: the first may compile kernels."""
TRYING_SECONDS = 0.3
"""After so long there is no further try."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a model computes."""

    tokens: float
    """Tokens that it reads, many at a time, padding left out; each counts for every pass."""
    decoding: Mapping[int, float]
    """Decoding steps, by the number of sequences that each adds a token to."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What a model's computation takes, in seconds."""

    token: float
    """For a token that is read, be it padding."""
    decoding: Mapping[int, float]
    """For a decoding step, by the number of sequences."""


def training_work(prepared: Prepared) -> Work:
    """What a run's training computes, its template being settled."""
    config, spec = prepared.config, METHODS[prepared.config.method]
    together = source(config).together
    prompts = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
    anchors = prompts * config.anchor_share / (1 - config.anchor_share)
    steps = config.max_steps if config.max_steps > 0 else config.num_train_epochs * len(prepared.pairs) / prompts

    limit = config.max_completion_length
    student = _prompt_tokens(prepared)
    limits = length_limits(config, prepared.files.config)
    teacher = fmean(most_teacher_tokens(pair, config, limits) for pair in prepared.pairs)
    anchor = fmean(len(pair.student_ids) for pair in prepared.anchors) if anchors else 0.0
    given = _given_share(config, math.ceil(steps))
    demonstration = fmean(len(pair.demonstration_ids) for pair in prepared.pairs) if given else 0.0
    frozen_base = prepared.options.recipe.adapter.lora_r is not None  # its weights need no gradients
    passes = (2 if frozen_base else 3) + (1 if config.activation_checkpointing else 0)

    size = prepared.teacher_size
    by_teacher = size if spec.has_teacher else 0
    row = passes * (student + limit) + by_teacher * (teacher + limit)
    row += {"student": student, "teacher": size * teacher, "demonstration": 0}[spec.completion]
    row += size * teacher if together else 0
    judged = by_teacher if target_of(config, "demonstration") != "tokens" else 0
    shown = passes * (student + demonstration) + judged * (teacher + demonstration)
    row = (1 - given) * row + given * shown
    tokens = prompts * row + anchors * ((passes + 1) * (anchor + limit) + anchor)  # the start model reads them, too
    alone = anchors + (prompts * (1 - given) if not together else 0)
    works = [Work(steps * tokens * config.num_rollouts, {})]
    written = size if spec.completion == "teacher" else 1
    for sampled, models in ((alone, written), (prompts, 1 + size if together else 0)):
        decoded = _decoding(round(sampled * config.num_rollouts), limit)
        works.append(Work(0, {rows: steps * models * count for rows, count in decoded.items() if models}))
    return total(works)


def _given_share(config: MethodConfig, steps: int) -> float:
    """Share of a run's completions that are demonstrations, in [0, 1]."""
    if not METHODS[config.method].samples:
        return 1.0
    if not source(config).mixes or config.mixture_of != "demonstration":
        return 0.0
    return fmean(mixture_share(config, number) for number in range(max(1, steps)))


def scoring_work(prepared: Prepared, num_rows: int, max_new_tokens: int) -> Work:
    """What sampling one completion for each of ``num_rows`` rows computes, whose prompts are as long as those trained
    on."""
    return Work(num_rows * _prompt_tokens(prepared), _decoding(num_rows, max_new_tokens))


def total(works: Collection[Work]) -> Work:
    """All of it."""
    sizes = {rows for work in works for rows in work.decoding}
    decoding = {rows: sum(work.decoding.get(rows, 0) for work in works) for rows in sizes}
    return Work(sum(work.tokens for work in works), decoding)


def seconds(work: Work, speed: Speed) -> float:
    """What the work takes."""
    return PADDED * work.tokens * speed.token + sum(
        speed.decoding[rows] * count for rows, count in work.decoding.items()
    )


def measured(model: Any, sequences: Collection[int]) -> Speed:
    """Measures a loaded model's speed; takes about a second where a 135M-parameter model has no bf16 units.

    Args:
        model: the model.
        sequences: numbers of sequences to measure a decoding step for.
    """
    rows, length = READ_AT_ONCE
    with evaluating(model), torch.inference_mode():
        token = fastest(lambda: _read(model, rows, length)) / (rows * length)
        return Speed(token, {count: fastest(lambda count=count: _read(model, count, 1)) for count in sequences})


def in_words(seconds: float) -> str:
    """A duration, rounded: "about 6 minutes"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    if minutes < 100:
        return f"about {minutes} minute{'' if minutes == 1 else 's'}"
    return f"about {seconds / 3600:.1f} hours"


def has_bf16_units(device: torch.device) -> bool:
    """Whether the device computes faster in bf16."""
    return compute_dtype("auto", device) == torch.bfloat16


def machine(device: torch.device) -> str:
    """What decides its speed, in words."""
    if device.type != "cpu":
        return device.type
    units = "bf16 units" if has_bf16_units(device) else "no bf16 units"
    threads = torch.get_num_threads()
    return f"{units}, {threads} thread{'' if threads == 1 else 's'}"


def _prompt_tokens(prepared: Prepared) -> float:
    """Mean tokens of a prompt."""
    return fmean(len(pair.student_ids) for pair in prepared.pairs)


def _decoding(sequences: int, steps: float) -> dict[int, float]:
    """Decoding steps by the number of sequences, of which an engine takes BATCH_SIZE at once."""
    full, rest = divmod(sequences, BATCH_SIZE)
    return {rows: batches * steps for rows, batches in ((BATCH_SIZE, full), (rest, 1)) if rows * batches}


def _read(model: Any, rows: int, length: int) -> None:
    ids = torch.arange(rows * length, device=model.device).view(rows, length) % vocab_size(model)
    model(input_ids=ids, use_cache=False).logits[-1, -1, -1].item()  # waits for a GPU


def fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of a few tries. ``run`` waits for a GPU itself."""
    taken: list[float] = []
    while len(taken) < TRIES and sum(taken) < TRYING_SECONDS:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)
