"""How much memory a run will take, estimated before any weight is loaded, and how much there is."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from selfdistill.method.chunked import CHUNK_ELEMENTS, FEWEST_ROWS, TILE_ELEMENTS
from selfdistill.method.rollout.batched import make_engine
from selfdistill.method.rollout.projections import PACKED_BYTES
from selfdistill.models import loading
from selfdistill.settings.method import LEARNS_TOKENS, MethodConfig
from selfdistill.types import PromptPair

CGROUPS = (Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
"""Where Linux tells this process's control groups, and where their limits are."""
LORA_R = 16
"""Rank of the adapter that is suggested where training all weights takes too much."""
PROGRAM_BYTES = 1000 * 2**20
"""Interpreter and libraries (0.6 GB by benchmarks/memory.py), and what the heap keeps between blocks that are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes by purpose."""

    weights: int
    """The model, in the dtype that is computed in, and an adapter's fp32 weights."""
    masters_and_optimizer: int
    """AdamW's two moments for what is trained, and fp32 masters where it is computed with in a shorter dtype."""
    gradients: int
    """fp32, from the first backward pass of a step to its optimizer step."""
    teacher: int
    """The teachers' own tensors."""
    activations: int
    """Kept from the forward for the backward pass of the largest micro-batch."""
    loss: int
    """Logits of a chunk, and the gradient to the output head."""
    rollouts: int
    """Keys, values and logits while completions are sampled, and on a CPU the weights in another layout."""
    program: int
    """The interpreter, the libraries, and memory that is free but not given back."""

    @property
    def peak(self) -> int:
        """All of it at once, but sampling and training, which take turns."""
        standing = self.weights + self.masters_and_optimizer + self.teacher + self.program
        return standing + max(self.gradients + self.activations + self.loss, self.rollouts)

    @property
    def largest(self) -> str:
        """The part that takes most, in words; the program is there whatever the settings."""
        parts = [field.name for field in fields(self) if field.name != "program"]
        return max(parts, key=lambda name: getattr(self, name)).replace("_", " ")

    def as_dict(self) -> dict[str, int]:
        """Bytes by purpose, and the peak."""
        return asdict(self) | {"peak": self.peak}


def estimate(
    config: Any,
    args: MethodConfig,
    *,
    num_parameters: int,
    num_trainable: int,
    bytes_per_weight: int,
    adapter: bool,
    lengths: Sequence[int],
    longest_prompt: int,
) -> MemoryEstimate:
    """Memory of training with ``args``.

    Args:
        config: the model's transformers config.
        args: the settings.
        num_parameters: parameters of the model without an adapter, tied ones once.
        num_trainable: those that are trained.
        bytes_per_weight: size of the dtype that is computed in.
        adapter: what is trained is a LoRA adapter, which is fp32 whatever is computed in.
        lengths: tokens of prompt and longest completion of every row, as the student is trained on them.
        longest_prompt: tokens of the longest prompt that is sampled from.
    """
    text = config.get_text_config(decoder=True)
    own_master = adapter or bytes_per_weight == 4
    share = args.anchor_share
    micro_batch = -(-args.per_device_train_batch_size // (1 - share))
    tokens = sum(sorted(lengths)[-int(micro_batch) :])
    prompts = args.per_device_train_batch_size * args.gradient_accumulation_steps
    sampled = round(prompts * share / (1 - share)) + (0 if args.method in LEARNS_TOKENS else prompts)
    per_layer = _activations(text, bytes_per_weight, adapter)
    layers = text.num_hidden_layers + 1  # one more for the gradients of the layer that backward is in
    if (checkpointing := _checkpointing(args)) and getattr(args, checkpointing):
        activations = per_layer * 2 + text.num_hidden_layers * text.hidden_size * bytes_per_weight
    else:
        activations = per_layer * layers
    return MemoryEstimate(
        weights=num_parameters * bytes_per_weight + (4 * num_trainable if adapter else 0),
        masters_and_optimizer=num_trainable * (8 if own_master else 12),
        gradients=num_trainable * 4,
        teacher=num_trainable * _teacher_bytes(args, 4 if own_master else bytes_per_weight),
        activations=tokens * activations,
        loss=_loss(text, tokens, bytes_per_weight, head_trained=not adapter),
        rollouts=_rollouts(text, sampled, longest_prompt, args.max_completion_length, bytes_per_weight)
        + (_packed(num_parameters * bytes_per_weight, bytes_per_weight) if sampled else 0),
        program=PROGRAM_BYTES,
    )


def _activations(text: Any, width: int, adapter: bool) -> int:
    """Bytes a token that autograd keeps of one pre-norm gated block, whose ``width`` is a number's bytes."""
    hidden, inner, attended, kv = _widths(text)
    norms = 2 * 4 * hidden  # a fp32 copy of what goes in
    if not adapter:  # beside it the norms' normalised and scaled values; queries, keys, values; four of the gated block
        return norms + width * (4 * hidden + 2 * attended + 2 * kv + 4 * inner)
    # frozen weights need no inputs, but each adapter takes a fp32 copy of them; where that is no copy, two norms' worth
    inputs = 4 * ((2 if width == 4 else 5) * hidden + attended + inner)
    return norms + inputs + width * (attended + 2 * kv + 3 * inner)


def _widths(text: Any) -> tuple[int, int, int, int]:
    """Hidden size, width of the gated block, of all query heads together, of all key heads together."""
    hidden, heads = text.hidden_size, text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or hidden // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return hidden, getattr(text, "intermediate_size", None) or 4 * hidden, heads * head_dim, kv_heads * head_dim


def _checkpointing(args: MethodConfig) -> str | None:
    """The setting by which activations are computed again instead of kept; transformers 5.24 has renamed it."""
    return next((name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(args, name)), None)


def _teacher_bytes(args: MethodConfig, width: int) -> int:
    """Bytes by trained weight: the teacher, and the frozen start model for anchor prompts where that is another."""
    kind = None if args.method in LEARNS_TOKENS else "frozen" if args.method == "reinvoke" else args.teacher
    size = {"ema": width + (4 if width < 4 else 0), "frozen": width}.get(kind or "", 0)
    return size + (width if args.anchor_share > 0 and kind != "frozen" else 0)


def _loss(text: Any, tokens: int, width: int, *, head_trained: bool) -> int:
    """fp32 logits, log-probabilities and probabilities of a chunk, student's and teacher's: six at once. The gradient
    to the head adds up in fp32; a tile of it at a time is made of a chunk."""
    logits = min(max(CHUNK_ELEMENTS, FEWEST_ROWS * text.vocab_size), tokens * text.vocab_size)
    head = text.vocab_size * text.hidden_size
    return 6 * 4 * logits + (4 * head + width * min(head, TILE_ELEMENTS) if head_trained else 0)


def _rollouts(text: Any, sampled: int, prompt: int, completion: int, width: int) -> int:
    """The cache of a batch and, as it is made, that of its prompts once more; 28 bytes a logit in sampling."""
    batch = min(sampled, inspect.signature(make_engine).parameters["batch_size"].default)
    cache = text.num_hidden_layers * 2 * _widths(text)[3] * width
    return batch * (cache * (2 * prompt + completion) + 28 * text.vocab_size)


def _packed(weights: int, width: int) -> int:
    """The copy of the weights that decoding reads on a CPU."""
    on_cpu = loading.default_device().type == "cpu"
    return weights if on_cpu and width == 2 and weights <= PACKED_BYTES else 0


def estimate_for(
    config: Any, args: MethodConfig, pairs: Sequence[PromptPair], *, dtype: str, lora_r: int | None
) -> MemoryEstimate:
    """The estimate for rendered rows. Parameters are counted on the meta device: no weight is read."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        num_parameters = sum(p.numel() for p in model.parameters())
        if lora_r is not None:
            model = loading.lora(model, r=lora_r, alpha=lora_r, dropout=0.0)
    compute = loading.compute_dtype(dtype, loading.default_device())
    if args.method in LEARNS_TOKENS:
        lengths = [len(pair.student_ids) + len(pair.demonstration_ids) for pair in pairs]
    else:
        lengths = [len(pair.student_ids) + args.max_completion_length for pair in pairs]
    prompts = [len(pair.teacher_ids if args.method == "offline" else pair.student_ids) for pair in pairs]
    return estimate(
        config,
        args,
        num_parameters=num_parameters,
        num_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        bytes_per_weight=compute.itemsize,
        adapter=lora_r is not None,
        lengths=lengths,
        longest_prompt=max(prompts),
    )


def available(device: torch.device) -> int:
    """Bytes that this process can have: all of a CUDA device's; else what it has, and what is free or can be freed."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    process = psutil.Process().memory_info().rss
    return min([psutil.virtual_memory().available + process, *_group_limits()])


def _group_limits() -> Iterator[int]:
    """Limits in bytes of the control groups that this process is in, as containers have them."""
    membership, root = CGROUPS
    for line in membership.read_text().splitlines() if membership.is_file() else ():
        _, controllers, path = line.split(":", 2)
        version_1 = "memory" in controllers.split(",")
        if controllers and not version_1:
            continue
        base = root / "memory" if version_1 else root
        inside = base / path.lstrip("/")  # seen from within a container the group may be the root itself
        for folder in (inside, *inside.parents):
            limit = folder / ("memory.limit_in_bytes" if version_1 else "memory.max")
            if folder.is_relative_to(base) and limit.is_file() and (text := limit.read_text().strip()) != "max":
                yield int(text)


def shortage(
    config: Any, args: MethodConfig, pairs: Sequence[PromptPair], *, dtype: str, lora_r: int | None
) -> str | None:
    """What a run lacks and what would help most, in at most 34 words; None where it fits."""
    there = available(loading.default_device())
    needed = estimate_for(config, args, pairs, dtype=dtype, lora_r=lora_r)
    if needed.peak <= there:
        return None
    text = (
        f"Training takes about {needed.peak / 2**30:.1f} GiB of memory, most of it for {needed.largest}; "
        f"{there / 2**30:.1f} GiB are there."
    )
    best: tuple[str, int] | None = None
    for remedy, changed, rank in _remedies(args, lora_r):
        peak = estimate_for(config, changed, pairs, dtype=dtype, lora_r=rank).peak
        if best is None or peak < best[1]:
            best = remedy, peak
        if peak <= there:
            return f"{text} {remedy} takes {peak / 2**30:.1f}."
    if best is None or best[1] >= needed.peak:
        return f"{text} Take a smaller model."
    return f"{text} Even {best[0]} takes {best[1] / 2**30:.1f}: take a smaller model."


def _remedies(args: MethodConfig, lora_r: int | None) -> Iterator[tuple[str, MethodConfig, int | None]]:
    """Flags that save memory, with the settings and the rank they make, those first that change least."""
    size, prompts = (
        args.per_device_train_batch_size,
        args.per_device_train_batch_size * args.gradient_accumulation_steps,
    )
    while size > 1:
        size //= 2
        steps = -(-prompts // size)
        flags = f"--per_device_train_batch_size {size} --gradient_accumulation_steps {steps}"
        yield flags, _with(args, per_device_train_batch_size=size, gradient_accumulation_steps=steps), lora_r
    if (checkpointing := _checkpointing(args)) and not getattr(args, checkpointing):
        yield f"--set {checkpointing}=true", _with(args, **{checkpointing: True}), lora_r
    if args.teacher == "ema" and args.method in ("sdft", "offline"):
        yield "--teacher frozen", _with(args, teacher="frozen"), lora_r
    if lora_r is None and args.method != "reinvoke":
        yield f"--lora_r {LORA_R}", args, LORA_R


def _with(args: MethodConfig, **changes: Any) -> MethodConfig:
    changed = copy.copy(args)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed
