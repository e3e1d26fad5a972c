"""Estimates the memory that a run needs before any weight is loaded, and measures how much is available."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from selfdistill.method.chunked import limits_on
from selfdistill.method.methods import METHODS
from selfdistill.method.needs import target_reads
from selfdistill.method.optimizers import optimizer_name, state_bytes
from selfdistill.method.remedies import Change, remedies
from selfdistill.method.sampling_memory import sampling_bytes, widths
from selfdistill.method.targets import TARGETS
from selfdistill.models.adapters import lora
from selfdistill.models.device import compute_dtype
from selfdistill.models.quantization import linear_layers, quantized_bytes
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair, Quantize

CGROUPS = (Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
"""Linux paths: the control groups of this process, and their limits."""
PROGRAM_BYTES = 1000 * 2**20
"""Interpreter and libraries (0.6 GB by benchmarks/memory.py), and free memory that the heap keeps."""
CONTEXT_BYTES = 600 * 2**20
"""What CUDA and its libraries take of a GPU before the first tensor. Not measured here."""
FRAGMENTATION = 0.05
"""Share lost between blocks on a GPU, of what a step takes and gives back. What is taken once, before the first step,
leaves no holes. Not measured here."""


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
    on_cpu: bool = True,
    card_bytes: int = 0,
) -> MemoryEstimate:
    """Estimates the memory of training with ``args``.

    Args:
        config: the model's transformers config.
        args: the settings.
        weight_bytes: of the model without an adapter.
        num_trainable: number of trained parameters.
        num_pinned: the same, each tensor's number rounded up to a power of two, as torch rounds blocks of pinned
            memory; by default ``num_trainable``.
        bytes_per_weight: size of the dtype that the model computes in.
        adapter: whether a LoRA adapter is trained.
        lengths: tokens of each row that the student reads in training: prompt and longest possible completion.
        longest_prompt: tokens of the longest prompt that completions are sampled from.
        on_cpu: whether the model runs on a CPU, where decoding reads a packed copy of the weights.
        card_bytes: the GPU's memory, of which vLLM takes a share.
    """
    text = config.get_text_config(decoder=True)
    micro_batch = -(-args.per_device_train_batch_size // (1 - args.anchor_share))
    tokens = sum(sorted(lengths)[-int(micro_batch) :])
    prompts = args.per_device_train_batch_size * args.gradient_accumulation_steps
    teacher, teacher_pass = _teacher_bytes(args, bytes_per_weight, on_cpu)
    lower_halves = num_trainable * (2 if bytes_per_weight == 2 else 0)
    embeddings = 0 if adapter else text.vocab_size * text.hidden_size
    states, states_on_device = (
        state_bytes(optimizer_name(args), num_trainable, embeddings, on_cpu=there) for there in (True, on_cpu)
    )
    kept = _teacher_bytes(args, bytes_per_weight, on_cpu=True)[0]
    at_host = max(weight_bytes, states - states_on_device + (kept - teacher) * (num_pinned or num_trainable))
    card, width = None if on_cpu else card_bytes, bytes_per_weight
    sampling = sampling_bytes(config, args, prompts, longest_prompt, weight_bytes, width, card)
    needed = MemoryEstimate(
        weights=weight_bytes + (num_trainable * bytes_per_weight if adapter else 0),
        masters_and_optimizer=lower_halves + states_on_device,
        gradients=num_trainable * 4,
        teacher=num_trainable * teacher,
        teacher_pass=num_trainable * teacher_pass,
        activations=tokens * _activations(text, args, bytes_per_weight, adapter),
        loss=_loss(text, args, tokens, bytes_per_weight, head_trained=not adapter, on_cpu=on_cpu)
        + _scores(text, args, prompts, bytes_per_weight, head_made=teacher_pass > 0 and not adapter),
        rollouts=sampling.passing,
        engine=sampling.standing,
        program=PROGRAM_BYTES if on_cpu else CONTEXT_BYTES,
        host=0 if on_cpu else PROGRAM_BYTES + at_host,
        checkpoint=num_trainable * bytes_per_weight + lower_halves + states + num_trainable * kept,
    )
    return needed if on_cpu else replace(needed, fragmentation=round(FRAGMENTATION * needed.passing))


def _activations(text: Any, args: MethodConfig, width: int, adapter: bool) -> int:
    """Bytes per token that autograd saves for all layers; ``width``: bytes per number."""
    block = _of_a_block(text, width, adapter)
    if args.activation_checkpointing:
        return block * 2 + text.num_hidden_layers * text.hidden_size * width
    return block * (text.num_hidden_layers + 1)  # one more for gradients of the layer in backward


def _of_a_block(text: Any, width: int, adapter: bool) -> int:
    """Bytes per token that autograd saves for one pre-norm gated block."""
    hidden, inner, attended, kv = widths(text)
    norms = 2 * 4 * hidden  # an fp32 copy of the input of each of the two norms
    if not adapter:  # also the norms' outputs, before and after scaling; queries, keys, values; four of the gated block
        return norms + width * (4 * hidden + 2 * attended + 2 * kv + 4 * inner)
    # A frozen layer saves no input, but its adapter does
    return norms + width * (2 * hidden + attended + inner) + width * (attended + 2 * kv + 3 * inner)


def _teacher_bytes(args: MethodConfig, width: int, on_cpu: bool) -> tuple[int, int]:
    """Bytes per trained weight of ``width`` bytes: what the teacher, and the start model for anchor prompts and targets
    if that is another, keep on the device, and what their passes take in addition."""
    spec = METHODS[args.method]
    kind = None if not spec.has_teacher else "frozen" if spec.teacher == "base_model" else args.teacher
    kept = {"ema": 4, "frozen": width}.get(kind or "", 0)
    started = args.anchor_share > 0 or "start" in target_reads(args)
    starts = width if started and kind != "frozen" else 0
    if args.teacher_home == "host" and not on_cpu:
        return 0, width if kept or starts else 0
    return kept + starts, width if kind == "ema" and width < 4 else 0


def _loss(text: Any, args: MethodConfig, tokens: int, width: int, *, head_trained: bool, on_cpu: bool) -> int:
    """Bytes for the loss: fp32 logits, log-probabilities and probabilities of a chunk, for student and teacher (six
    tensors) and for another target (up to four more); the head's gradient in fp32, and one tile of it in the dtype to
    compute in."""
    limits, tensors = limits_on("cpu" if on_cpu else "cuda"), 6 if TARGETS[args.target].log_probs is None else 10
    logits = min(max(limits.logits, limits.fewest_rows * text.vocab_size), tokens * text.vocab_size)
    head = text.vocab_size * text.hidden_size
    return tensors * 4 * logits + (4 * head + width * limits.tile(head) if head_trained else 0)


def _scores(text: Any, args: MethodConfig, prompts: int, width: int, *, head_made: bool) -> int:
    """Bytes of the scores of the teacher and of the other models that the target reads, kept from their passes to the
    end of the step: hidden states, and the output heads that were made for the passes."""
    reads = target_reads(args)
    rows = prompts * args.max_completion_length if METHODS[args.method].has_teacher or args.anchor_share > 0 else 0
    heads = 0 if not head_made else 2 if "start" in reads and args.teacher_home == "host" else 1
    return width * text.hidden_size * (rows * (1 + len(reads)) + heads * text.vocab_size)


class MemoryCheck:
    """Estimates whether training on given rows fits into memory, before any weight is loaded.

    Args:
        config: the model's transformers config.
        pairs: the rows, rendered.
        dtype: dtype to compute in, a value of ``--dtype``.
        lora_r: rank of the LoRA adapter to train; None to train all weights.
        device: device to train on.
        quantize: bits of the weights beside an adapter; None for those of ``dtype``.
    """

    def __init__(
        self,
        config: Any,
        pairs: Sequence[PromptPair],
        *,
        dtype: str,
        lora_r: int | None,
        device: torch.device,
        quantize: Quantize | None = None,
    ) -> None:
        self._config, self._lora_r, self._device = config, lora_r, device
        self._quantize: Quantize | None = quantize
        self._width = compute_dtype(dtype, device).itemsize
        self._prompts = [len(pair.student_ids) for pair in pairs]
        self._teacher_prompts = [len(pair.teacher_ids or ()) for pair in pairs]
        self._demonstrations = [len(pair.demonstration_ids) for pair in pairs]
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
        return estimate(
            self._config,
            args,
            weight_bytes=size.weight_bytes(self._width, change.quantize or self._quantize),
            num_trainable=size.trainable,
            num_pinned=size.pinned,
            bytes_per_weight=self._width,
            adapter=rank is not None,
            lengths=lengths,
            longest_prompt=max(
                self._teacher_prompts + self._prompts if spec.completion == "teacher" else self._prompts
            ),
            on_cpu=self._device.type == "cpu",
            card_bytes=self._card_bytes(args),
        )

    def _card_bytes(self, args: MethodConfig) -> int:
        """The GPU's memory, which is asked for only where vLLM takes a share of it."""
        asked = self._device.type == "cuda" and args.rollout_engine == "vllm"
        return torch.cuda.mem_get_info(self._device)[1] if asked else 0

    def num_parameters(self) -> int:
        """Number of the model's parameters, without an adapter."""
        return self._size(self._lora_r).parameters

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
