"""Estimates the memory that a run needs before any weight is loaded, and measures how much is available."""

import copy
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from selfdistill.method.memory_parts import (
    TeacherSize,
    activation_bytes,
    loss_bytes,
    score_bytes,
    teacher_bytes,
)
from selfdistill.method.methods import METHODS
from selfdistill.method.optimizers import optimizer_name, state_bytes
from selfdistill.method.remedies import Change, remedies
from selfdistill.method.sampling_memory import sampling_bytes
from selfdistill.method.sources import source
from selfdistill.models.adapters import lora
from selfdistill.models.device import compute_dtype
from selfdistill.models.quantization import linear_layers, quantized_bytes
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair, Quantize

CGROUPS = (Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
"""Linux paths: the control groups of this process, and their limits."""
PROGRAM_BYTES = 1000 * 2**20
"""Interpreter and libraries (0.6 GB by benchmarks/memory.py), and free memory that the heap keeps."""
CONTEXT_BYTES = 960 * 2**20
"""What CUDA, its libraries and recorded graphs take of a GPU beside tensors: 0.89 to 1.0 GB on an H200."""
FRAGMENTATION = 0.05
"""Share lost between blocks on a GPU, of what a step takes and gives back. What is taken once, before the first step,
leaves no holes. On an H200 a 7B model lost 2.5 GB so, where this says 2.0, and one of 1.5B lost 1.3 GB, not 0.6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Memory of a training run in bytes, by purpose."""

    weights: int
    """The model and an adapter in the dtype to compute in, or quantized, with the largest such layer dequantized."""
    masters_and_optimizer: int
    """The optimizer's states, plus the lower halves of the masters if the model computes in bf16."""
    gradients: int
    """fp32 gradients, held from the first backward pass of a step to its optimizer step."""
    teacher: int
    """Tensors of the teacher and of the frozen start model that stay on the device."""
    teacher_pass: int
    """A teacher's weights in the dtype to compute in, made for its forward passes, before any gradient exists."""
    activations: int
    """Tensors saved for the backward pass of the largest micro-batch."""
    loss: int
    """Logits of one chunk, the gradient to the output head, and the hidden states and head of the teacher's scores."""
    rollouts: int
    """Key-value cache and logits while sampling, and on a CPU the packed copy of the weights; with vLLM on a GPU the
    share of the card that it takes while it samples."""
    program: int
    """On a CPU interpreter, libraries, and freed memory that is not returned to the system; on a GPU its context."""
    fragmentation: int = 0
    """On a GPU: memory that lies between blocks in use."""
    host: int = 0
    """With a GPU, memory of the host: the program, the model while it is read, and what is kept there. Not in the
    peak."""
    engine: int = 0
    """With vLLM on a CPU, its copy of the weights and its key-value cache, which stay."""
    checkpoint: int = 0
    """Size of a checkpoint on the disk. Not in the peak."""

    @property
    def peak(self) -> int:
        """Peak bytes, in the device's memory."""
        return self.standing + self.passing + self.fragmentation

    @property
    def standing(self) -> int:
        """Bytes that stay from step to step."""
        return self.weights + self.masters_and_optimizer + self.teacher + self.engine + self.program

    @property
    def passing(self) -> int:
        """Most bytes that are taken and given back within a step: by sampling, the teacher's passes or the student's,
        of which no two overlap."""
        return max(self.gradients + self.activations + self.loss, self.rollouts, self.teacher_pass)

    @property
    def largest(self) -> str:
        """Name of the largest part, in words; the program is left out, since no setting changes it."""
        left_out = ("program", "fragmentation", "host", "checkpoint")
        parts = [field.name for field in fields(self) if field.name not in left_out]
        return max(parts, key=lambda name: getattr(self, name)).replace("_", " ")

    def as_dict(self) -> dict[str, int]:
        """Returns the bytes by purpose, and the peak as ``peak``."""
        return asdict(self) | {"peak": self.peak}


def estimate(
    config: Any,
    args: MethodConfig,
    *,
    weight_bytes: int,
    num_trainable: int,
    num_pinned: int | None = None,
    bytes_per_weight: int,
    adapter: bool,
    lengths: Sequence[int],
    longest_prompt: int,
    other: TeacherSize | None = None,
    on_cpu: bool = True,
    card_bytes: int = 0,
) -> MemoryEstimate:
    """Estimates the memory of training with ``args``.

    Args:
        config: the model's transformers config.
        args: the settings.
        weight_bytes: of the model without an adapter.
        num_trainable: number of trained parameters.
        num_pinned: the same, each tensor's rounded up to a power of two as in pinned memory; or ``num_trainable``.
        bytes_per_weight: size of the dtype that the model computes in.
        adapter: whether a LoRA adapter is trained.
        lengths: tokens of each row that the student reads in training, prompt and longest possible completion.
        longest_prompt: tokens of the longest prompt that completions are sampled from.
        other: the teacher; by default one without a prompt of its own.
        on_cpu: whether the model runs on a CPU, where decoding reads a packed copy of the weights.
        card_bytes: the GPU's memory, of which vLLM takes a share.
    """
    text, share, other = config.get_text_config(decoder=True), args.anchor_share, other or TeacherSize()
    micro_batch = -(-args.per_device_train_batch_size // (1 - share))
    tokens = sum(sorted(lengths)[-int(micro_batch) :]) * args.num_rollouts
    prompts = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.num_rollouts
    teacher, teacher_pass = teacher_bytes(args, bytes_per_weight, on_cpu)
    lower_halves = num_trainable * (2 if bytes_per_weight == 2 else 0)
    embeddings, optimizer = 0 if adapter else text.vocab_size * text.hidden_size, optimizer_name(args)
    states, states_on_device = (state_bytes(optimizer, num_trainable, embeddings, on_cpu=at) for at in (True, on_cpu))
    kept = teacher_bytes(args, bytes_per_weight, on_cpu=True)[0]
    at_host = max(weight_bytes, states - states_on_device + (kept - teacher) * (num_pinned or num_trainable))
    width, card = bytes_per_weight, None if on_cpu else card_bytes
    sampling = sampling_bytes(config, other, args, prompts, longest_prompt, weight_bytes, width, card)
    needed = MemoryEstimate(
        weights=weight_bytes + (num_trainable * bytes_per_weight if adapter else 0),
        masters_and_optimizer=lower_halves + states_on_device,
        gradients=num_trainable * 4,
        teacher=num_trainable * teacher + other.weight_bytes,
        teacher_pass=num_trainable * teacher_pass,
        activations=tokens * activation_bytes(text, args, bytes_per_weight, adapter),
        loss=loss_bytes(text, args, tokens, width, head_trained=not adapter, on_cpu=on_cpu)
        + score_bytes(text, other, args, prompts, width, head_made=teacher_pass > 0 and not adapter),
        rollouts=sampling.passing + (num_trainable * teacher_pass if source(args).together else 0),
        engine=sampling.standing,
        program=PROGRAM_BYTES if on_cpu else CONTEXT_BYTES,
        host=0 if on_cpu else PROGRAM_BYTES + at_host,
        checkpoint=num_trainable * bytes_per_weight + lower_halves + states + num_trainable * kept,
    )
    return needed if on_cpu else replace(needed, fragmentation=round(FRAGMENTATION * needed.passing))


def split_over(
    processes: int,
    needed: MemoryEstimate,
    config: Any,
    args: MethodConfig,
    weight_bytes: int,
    num_trainable: int,
    width: int,
) -> MemoryEstimate:
    """The memory of one of several processes over which a model is split (``shard_weights``).

    Each has slices, in fp32 of what is trained, and gathers whole weights: the embeddings, the output head and two
    layers in a pass, all of them while it samples. The main process gathers a checkpoint in the host's memory.

    Args:
        processes: their number.
        needed: the estimate for a process that has the whole model.
        config: the model's transformers config.
        args: the settings.
        weight_bytes: of the model without an adapter.
        num_trainable: number of trained parameters.
        width: bytes of a number in the dtype to compute in.
    """
    text = config.get_text_config(decoder=True)
    head = text.vocab_size * text.hidden_size * width
    outside = head if getattr(text, "tie_word_embeddings", False) else 2 * head
    gathered = outside + 2 * max(weight_bytes - outside, 0) // text.num_hidden_layers
    states = needed.masters_and_optimizer - num_trainable * (2 if width == 2 else 0)
    kept = teacher_bytes(args, 4, on_cpu=True)[0]
    split = replace(
        needed,
        weights=-(-(needed.weights + num_trainable * (4 - width)) // processes),
        masters_and_optimizer=-(-states // processes),
        gradients=-(-needed.gradients // processes),
        teacher=-(-num_trainable * kept // processes),
        teacher_pass=gathered,
        activations=needed.activations + gathered,
        loss=needed.loss + (head if kept else 0),
        rollouts=needed.rollouts + needed.weights,
        host=needed.host + (needed.checkpoint if needed.host else 0),
    )
    return replace(split, fragmentation=round(FRAGMENTATION * split.passing) if needed.fragmentation else 0)


class MemoryCheck:
    """Estimates whether training on given rows fits into memory, before any weight is loaded.

    Args:
        config: the model's transformers config.
        pairs: the rows, rendered.
        dtype: dtype to compute in, a value of ``--dtype``.
        lora_r: rank of the LoRA adapter to train; None to train all weights.
        device: device to train on.
        quantize: bits of the weights beside an adapter; None for those of ``dtype``.
        teacher_config: transformers config of a teacher that is another model.
    """

    def __init__(
        self,
        config: Any,
        pairs: Iterable[PromptPair],
        *,
        dtype: str,
        lora_r: int | None,
        device: torch.device,
        quantize: Quantize | None = None,
        teacher_config: Any = None,
    ) -> None:
        self._config, self._lora_r, self._device = config, lora_r, device
        self._quantize: Quantize | None = quantize
        self._teacher_config, self._teacher_weights = teacher_config, _weights_of(teacher_config)
        self._width = compute_dtype(dtype, device).itemsize
        self._prompts, self._teacher_prompts, self._demonstrations = array("Q"), array("Q"), array("Q")
        for pair in pairs:
            self._prompts.append(len(pair.student_ids))
            self._teacher_prompts.append(len(pair.teacher_ids or ()))
            self._demonstrations.append(len(pair.demonstration_ids))
        self._sizes: dict[int | None, _Size] = {}

    def estimate(self, args: MethodConfig, change: Change | None = None) -> MemoryEstimate:
        """Estimates the memory of training with ``args``, or with a change of them."""
        change = change or Change()
        args, spec = _with(args, change.settings), METHODS[args.method]
        rank = change.lora_r or self._lora_r
        size = self._size(rank)
        completions = [0] * len(self._prompts) if spec.samples else self._demonstrations
        lengths = [  # rows without a demonstration are general prompts, whose completions are sampled
            prompt + (answer or args.max_completion_length)
            for prompt, answer in zip(self._prompts, completions, strict=True)
        ]
        weight_bytes = size.weight_bytes(self._width, change.quantize or self._quantize)
        needed = estimate(
            self._config,
            args,
            weight_bytes=weight_bytes,
            num_trainable=size.trainable,
            num_pinned=size.pinned,
            bytes_per_weight=self._width,
            adapter=rank is not None,
            lengths=lengths,
            longest_prompt=max(self._prompts),
            other=TeacherSize(
                longest_prompt=max(self._teacher_prompts + self._prompts),
                config=self._teacher_config,
                weight_bytes=self._teacher_weights * self._width,
            ),
            on_cpu=self._device.type == "cpu",
            card_bytes=self._card_bytes(args),
        )
        if not args.shard_weights:
            return needed
        return split_over(
            getattr(args, "world_size", 1), needed, self._config, args, weight_bytes, size.trainable, self._width
        )

    def _card_bytes(self, args: MethodConfig) -> int:
        """The GPU's memory, which is asked for only where vLLM takes a share of it."""
        asked = self._device.type == "cuda" and args.rollout_engine == "vllm"
        return torch.cuda.mem_get_info(self._device)[1] if asked else 0

    def num_parameters(self) -> int:
        """Number of the model's parameters, without an adapter."""
        return self._size(self._lora_r).parameters

    def teacher_size(self) -> float:
        """Number of the teacher's parameters over that of the model's."""
        return self._teacher_weights / self.num_parameters() if self._teacher_config else 1.0

    def shortage(self, args: MethodConfig, needed: MemoryEstimate) -> str | None:
        """Returns None if ``needed`` fits, otherwise what is lacking and what would help, in at most 36 words."""
        there, host = available(self._device), available(torch.device("cpu"))
        if needed.peak <= there:
            if needed.host <= host:
                return None
            return (
                f"Training takes about {needed.host / 2**30:.1f} GiB of the host's memory beside the GPU's; "
                f"{host / 2**30:.1f} GiB are available. --teacher_home device and optimizers that are not paged take "
                "less."
            )
        text = (
            f"Training takes about {needed.peak / 2**30:.1f} GiB of memory, most of it for {needed.largest}; "
            f"{there / 2**30:.1f} GiB are available."
        )
        best: tuple[str, int] | None = None
        for remedy in remedies(args, self._lora_r, self._quantize, on_cpu=self._device.type == "cpu"):
            peak = self.estimate(args, remedy).peak
            if best is None or peak < best[1]:
                best = remedy.flags, peak
            if peak <= there:
                return f"{text} {remedy.flags} takes {peak / 2**30:.1f}."
        if best is None or best[1] >= needed.peak:
            return f"{text} Take a smaller model."
        return f"{text} Even {best[0]} takes {best[1] / 2**30:.1f}: take a smaller model."

    def _size(self, rank: int | None) -> "_Size":
        """Sizes counted on the meta device, where no weight is read."""
        if rank not in self._sizes:
            with torch.device("meta"):
                model: Any = AutoModelForCausalLM.from_config(self._config)
                number = sum(p.numel() for p in model.parameters())
                layers = linear_layers(model)
                if rank is not None:
                    model = lora(model, r=rank, alpha=rank, dropout=0.0)
            trained = [p.numel() for p in model.parameters() if p.requires_grad]
            pinned = sum(1 << (count - 1).bit_length() for count in trained)
            self._sizes[rank] = _Size(parameters=number, trainable=sum(trained), pinned=pinned, layers=layers)
        return self._sizes[rank]


def _weights_of(config: Any) -> int:
    """Number of weights of a model with this config; 0 if there is none."""
    if config is None:
        return 0
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """Numbers of weights of a model."""

    parameters: int
    """Without an adapter; tied ones count once."""
    trainable: int
    pinned: int
    """As ``num_pinned`` of ``estimate``."""
    layers: list[nn.Linear]
    """Layers that can be quantized."""

    def weight_bytes(self, width: int, quantize: Quantize | None) -> int:
        """Bytes of the weights, of which those that are not quantized take ``width``; the largest layer once more, as
        it is dequantized to be used."""
        if quantize is None:
            return self.parameters * width
        numbers = [layer.weight.numel() for layer in self.layers]
        kept = (self.parameters - sum(numbers)) * width
        return kept + quantized_bytes(quantize, self.layers) + max(numbers, default=0) * width


def available(device: torch.device) -> int:
    """Bytes this process may use. On CUDA and XPU: free memory and what this process has reserved. Otherwise: memory
    that it holds and that is free or reclaimable, within the limits of its control groups or of Apple's GPU."""
    if device.type in ("cuda", "xpu"):
        card = torch.get_device_module(device)
        return card.mem_get_info(device)[0] + card.memory_reserved(device)
    process = psutil.Process().memory_info().rss
    limits = [torch.mps.recommended_max_memory()] if device.type == "mps" else list(_group_limits())
    return min([psutil.virtual_memory().available + process, *limits])


def _group_limits() -> Iterator[int]:
    """Yields the memory limits in bytes of this process's control groups, which containers set."""
    membership, root = CGROUPS
    for line in membership.read_text().splitlines() if membership.is_file() else ():
        _, controllers, path = line.split(":", 2)
        version_1 = "memory" in controllers.split(",")
        if controllers and not version_1:
            continue
        base = root / "memory" if version_1 else root
        inside = base / path.lstrip("/")  # within a container the group may be the root itself
        for folder in (inside, *inside.parents):
            limit = folder / ("memory.limit_in_bytes" if version_1 else "memory.max")
            if folder.is_relative_to(base) and limit.is_file() and (text := limit.read_text().strip()) != "max":
                yield int(text)


def _with(args: MethodConfig, changes: dict[str, Any]) -> MethodConfig:
    changed = copy.copy(args)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed
