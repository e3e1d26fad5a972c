"""Changes of a run's settings that save memory, the mildest first."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from selfdistill.method.methods import METHODS
from selfdistill.method.needs import counts
from selfdistill.method.optimizers import optimizer_name
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Quantize

LORA_R = 16
"""Rank of the LoRA adapter suggested if training all weights needs too much memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a run's settings that saves memory."""

    flags: str = ""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    lora_r: int | None = None
    quantize: Quantize | None = None

    def __add__(self, other: "Change") -> "Change":
        """Both changes."""
        return Change(
            flags=f"{self.flags} {other.flags}".strip(),
            settings=self.settings | other.settings,
            lora_r=other.lora_r or self.lora_r,
            quantize=other.quantize or self.quantize,
        )


def remedies(args: MethodConfig, lora_r: int | None, quantize: Quantize | None, *, on_cpu: bool) -> Iterator[Change]:
    """Yields changes that save memory, the mildest first: those that change no number, alone and together; then each
    that does, alone and with all of those."""
    spec, size = METHODS[args.method], args.per_device_train_batch_size
    taught, adaptable = counts(args, "teacher"), spec.teacher == "setting"
    prompts, halves = size * args.gradient_accumulation_steps, list[Change]()
    while size > 1:
        size //= 2
        steps = -(-prompts // size)
        flags = f"--per_device_train_batch_size {size} --gradient_accumulation_steps {steps}"
        halves.append(
            Change(flags=flags, settings={"per_device_train_batch_size": size, "gradient_accumulation_steps": steps})
        )
    exact = halves[-1:]
    if not args.activation_checkpointing:
        exact.append(Change(flags="--activation_checkpointing", settings={"activation_checkpointing": True}))
    if not on_cpu and args.teacher_home == "device" and not args.shard_weights and counts(args, "teacher_home"):
        exact.append(Change(flags="--teacher_home host", settings={"teacher_home": "host"}))
    yield from (*halves[:-1], *exact)
    together = Change()
    for number, change in enumerate(exact):
        together += change
        if number > 0:
            yield together
    eight, frozen = Change(), Change()
    if lora_r is None and optimizer_name(args).startswith("adamw_torch") and not args.shard_weights:
        name = "adamw_8bit" if on_cpu else "paged_adamw_8bit"
        eight = Change(flags=f"--optim {name}", settings={"optim": name})
    if taught and args.teacher == "ema":
        frozen = Change(flags="--teacher frozen", settings={"teacher": "frozen"})
    adapter = Change(flags=f"--lora_r {LORA_R}", lora_r=LORA_R) if lora_r is None and adaptable else Change()
    fewer_bits = (
        Change(flags="--quantize 4bit", quantize="4bit")
        if adaptable and quantize is None and not args.shard_weights
        else Change()
    )
    for change in (eight, frozen, eight + frozen, adapter, adapter + fewer_bits):
        if change.flags:
            yield change
            yield together + change
