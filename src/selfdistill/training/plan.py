"""What fits a GPU: candidate settings of a run, their memory and the time of a step, from a model's config alone.

Times are arithmetic, not measurements: matrix products at ``EFFICIENCY`` of the card's peak, decoding limited by
reading the weights or by launching kernels, every completion as long as allowed. They rank settings and say hours or
days.
"""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from selfdistill.method.memory import MemoryCheck, MemoryEstimate
from selfdistill.method.remedies import LORA_R
from selfdistill.settings.method import MethodConfig
from selfdistill.settings.plan import PlanOptions
from selfdistill.training.cards import BANDWIDTH_SHARE, EFFICIENCY, Card
from selfdistill.types import Example, PromptPair

TRAINED = ("all weights", "LoRA", "QLoRA")
"""What is trained: all weights, an adapter, or an adapter beside weights of 4 bits."""
SPARE = 0.07
"""Share of a card's memory that a setting leaves free if it is said to fit: the estimate is one."""
KERNELS_PER_LAYER = 29
"""Kernels that decoding a token launches in each layer."""
KERNEL_SECONDS = 4.4e-6
"""Time of a small kernel while a recorded step is replayed. With it a token takes 3.4, 4.4 and 7.2 ms at 0.5B, 1.5B and
7B; on an H200 it took 3.2, 4.6 and 7.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Settings of a run on a card."""

    name: str
    command: str
    parts: MemoryEstimate
    seconds: dict[str, float]
    """Seconds of a step, by phase."""
    fits: bool

    @property
    def seconds_per_step(self) -> float:
        """Seconds of an optimizer step."""
        return sum(self.seconds.values())

    def as_dict(self) -> dict[str, Any]:
        """The candidate as it is printed with --json."""
        return {
            "name": self.name,
            "command": self.command,
            "peak_bytes": self.parts.peak,
            "parts": asdict(self.parts),
            "seconds_per_step": round(self.seconds_per_step, 2),
            "seconds": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
            "fits": self.fits,
        }


def candidates(options: PlanOptions, config: Any, card: Card) -> list[Candidate]:
    """Candidate settings, those that fit first, each part in order of how little it departs from the paper's run. Of
    micro-batches that take the same time, the one that needs least memory comes first.

    Args:
        options: model, number of cards, and lengths.
        config: the model's transformers config.
        card: what to train on.
    """
    prompt = (0,) * options.max_prompt_length
    row = PromptPair(
        example=Example(id="", prompt=({"role": "user", "content": ""},)), student_ids=prompt, teacher_ids=prompt
    )
    checks = {
        trained: MemoryCheck(
            config,
            [row] * _prompts(options),
            dtype="bfloat16" if card.bf16 else "float32",
            lora_r=None if trained == "all weights" else LORA_R,
            device=torch.device(card.device),
            quantize="4bit" if trained == "QLoRA" else None,
        )
        for trained in TRAINED
    }
    found: list[Candidate] = []
    for _, alike in itertools.groupby(_choices(options, card), lambda choice: replace(choice, micro_batch=0)):
        sized = [_candidate(options, config, card, checks[choice.trained], choice) for choice in alike]
        found += sorted(sized, key=lambda candidate: (round(candidate.seconds_per_step, 1), candidate.parts.peak))
    return sorted(found, key=lambda candidate: not candidate.fits)  # a stable order


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    trained: str
    """One of ``TRAINED``."""
    teacher: str
    optim: str
    home: str
    micro_batch: int
    checkpointing: bool

    @property
    def name(self) -> str:
        words = [self.trained, f"{self.teacher} teacher"]
        words += ["on the host"] if self.home == "host" else []
        words += [self.optim] if self.optim != "adamw_torch_fused" else []
        words += [f"micro-batch {self.micro_batch}"]
        return ", ".join(words + (["activations recomputed"] if self.checkpointing else []))


def _prompts(options: PlanOptions) -> int:
    """Prompts per step and card."""
    return -(-options.prompts // options.gpus)


def _choices(options: PlanOptions, card: Card) -> Iterator[_Choice]:
    """Yields the paper's run first and what departs most from it last. What changes no number comes before 8-bit
    moments, then a frozen teacher, then LoRA, then 4-bit weights beside it."""
    sizes = [size for size in (4, 2, 1) if size <= _prompts(options)]
    has_bits = card.device != "mps"  # bitsandbytes has nothing for Apple's GPUs
    eight_bits = ("adamw_torch_fused", *(["adamw_8bit"] if has_bits else []))
    eight_bits += ("paged_adamw_8bit",) if card.device == "cuda" else ()
    homes = ("device", "host") if card.device == "cuda" else ("device",)
    for trained, teacher in itertools.product(TRAINED if has_bits else TRAINED[:2], ("ema", "frozen")):
        for optim in eight_bits if trained == "all weights" else eight_bits[:1]:
            for home, checkpointing, size in itertools.product(homes, (False, True), sizes):
                yield _Choice(
                    trained=trained,
                    teacher=teacher,
                    optim=optim,
                    home=home,
                    micro_batch=size,
                    checkpointing=checkpointing,
                )


def _candidate(options: PlanOptions, config: Any, card: Card, check: MemoryCheck, choice: _Choice) -> Candidate:
    args = MethodConfig(
        teacher=choice.teacher,  # type: ignore[arg-type]
        teacher_home=choice.home,  # type: ignore[arg-type]
        optim=choice.optim,
        template="prior_turn",
        max_completion_length=options.max_completion_length,
        per_device_train_batch_size=choice.micro_batch,
        gradient_accumulation_steps=-(-_prompts(options) // choice.micro_batch),
        activation_checkpointing=choice.checkpointing,
    )
    parts = check.estimate(args)
    flags: dict[str, Any] = {
        "model_name": options.model_name,
        "teacher": choice.teacher,
        "teacher_home": choice.home,
        "optim": choice.optim,
        "lora_r": None if choice.trained == "all weights" else LORA_R,
        "quantize": "4bit" if choice.trained == "QLoRA" else None,
        "max_prompt_length": options.max_prompt_length,
        "per_device_train_batch_size": choice.micro_batch,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
    }
    defaults = MethodConfig()
    words = [f"--{name} {value}" for name, value in flags.items() if value not in (None, getattr(defaults, name, None))]
    words += [f"--max_completion_length {options.max_completion_length}"]  # train's default depends on the rows
    words += ["--activation_checkpointing"] if choice.checkpointing else []
    program = "selfdistill" if options.gpus == 1 else f"torchrun --nproc_per_node {options.gpus} -m selfdistill"
    return Candidate(
        name=choice.name,
        command=f"{program} train {' '.join(words)} --dataset_path ROWS --output_dir DIR",
        parts=parts,
        seconds=_seconds(options, config, card, choice, parts, check.num_parameters()),
        fits=parts.peak <= card.memory * 2**30 * (1 - SPARE),
    )


def kernel_seconds(layers: int) -> float:
    """Seconds of a decoding step's small kernels, of a model with so many layers."""
    return (KERNELS_PER_LAYER * layers + 25) * KERNEL_SECONDS


def _seconds(
    options: PlanOptions, config: Any, card: Card, choice: _Choice, parts: MemoryEstimate, weights: int
) -> dict[str, float]:
    """Seconds of a step by phase, every completion being as long as allowed."""
    text = config.get_text_config(decoder=True)
    flops, bandwidth = card.flops * 1e12 * EFFICIENCY, card.bandwidth * 1e12 * BANDWIDTH_SHARE
    prompts = _prompts(options)
    tokens = prompts * (options.max_prompt_length + options.max_completion_length)
    a_token = kernel_seconds(text.num_hidden_layers) + parts.weights / bandwidth
    adapter = choice.trained != "all weights"
    trained = 0.01 if adapter else 1.0
    moved = weights * trained * (30 if choice.optim == "adamw_torch_fused" else 20)
    upload = weights * trained * 4 / (card.link * 1e9) if choice.home == "host" else 0.0
    student = (4 if adapter else 6) + (2 if choice.checkpointing else 0)
    # 4-bit weights are written and read once more in 16 bits by every forward and backward pass
    dequantized = 4.5 * weights / bandwidth if choice.trained == "QLoRA" else 0.0
    micro_batches, passes = -(-prompts // choice.micro_batch), 3 if choice.checkpointing else 2
    return {
        "rollout": 2 * weights * prompts * options.max_prompt_length / flops + options.max_completion_length * a_token,
        "teacher": 2 * weights * tokens / flops + upload + micro_batches * dequantized,
        "student": student * weights * tokens / flops + micro_batches * passes * dequantized,
        "exchange": 2 * (1 - 1 / options.gpus) * weights * trained * 4 / (card.peers * 1e9),
        "optimizer": moved / bandwidth,
    }
