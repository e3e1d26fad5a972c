"""Does it fit, and is it fast? Training steps of the paper's size: their peak, our estimate, seconds by phase."""

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from transformers import TrainerCallback

from flops import Shape, step_flops
from gpu_check.machine import peak_flops
from gpu_check.models import (
    GIB,
    NO_TOKEN,
    free,
    memory,
    pairs,
    random_model,
    shape_config,
    synchronize,
    taken,
    tokenizer,
)
from gpu_check.report import Report
from selfdistill.errors import UserError
from selfdistill.method.config import SDFTConfig
from selfdistill.method.memory import MemoryCheck, MemoryEstimate, available
from selfdistill.method.rollout.engine import BATCH_SIZE
from selfdistill.method.rollout.engines import ENGINES
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.models.attention import use_fast_attention
from selfdistill.models.device import compute_dtype

PAPER: dict[str, Any] = {
    "method": "sdft",
    "divergence": "forward_kl",
    "teacher": "ema",
    "teacher_update_rate": 0.01,
    "num_loss_tokens_to_skip": 3,
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 2,
    "activation_checkpointing": True,
}
"""The settings of the recipe paper-tooluse-qwen2.5-7b that decide what a step does, but for WAYS."""
WAYS: dict[str, dict[str, Any]] = {
    "all weights": {"teacher_home": "host"},
    "all weights, moments in 8 bits": {"teacher_home": "host", "optim": "paged_adamw_8bit"},
    "LoRA": {"lora_r": 16, "learning_rate": 2e-4},
}
"""What fits an H200, then a GPU of 80 GB (the recipe's -80gb), then smaller ones. The first that fits is taken."""
STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Lengths of a step's rows, in tokens, and how many there are; by default the paper's."""

    prompt: int = 1024
    completion: int = 1024
    prompts: int = 32


QUICK = Sizes(prompt=16, completion=8, prompts=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that can be made."""

    way: str
    config: Any
    """The model's."""
    args: SDFTConfig
    lora_r: int | None
    rows: list[Any]
    sizes: Sizes
    estimate: MemoryEstimate
    num_parameters: int


def training_step(report: Report, shape: str) -> None:
    """Makes STEPS steps with a model of the shape, in the first of WAYS that fits; in the next one if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            free(report.device)
            run, reason = plan(report, shape, way, folder)
            if run is None or reason is not None:
                report.skip(way, str(reason))
                continue
            report.put(f"{way}: run", _facts(run))
            if report.part(way, lambda run=run: _measure(report, run)) is not None:
                return


def plan(report: Report, shape: str, way: str, folder: str) -> tuple[Run | None, str | None]:
    """The run, and the reason why it can't be made here; None if it can."""
    settings = PAPER | WAYS[way]
    lora_r = settings.pop("lora_r", None)
    sizes, config = QUICK if report.quick else Sizes(), shape_config(shape, report.quick)
    settings["gradient_accumulation_steps"] = sizes.prompts // settings["per_device_train_batch_size"]
    try:
        args = SDFTConfig(
            output_dir=folder,
            use_cpu=report.device.type == "cpu",
            max_completion_length=sizes.completion,
            max_steps=STEPS,
            lr_scheduler_type="constant",
            warmup_steps=0,
            rollouts_logged_per_step=0,
            **settings,
        )
    except UserError as error:
        return None, str(error)
    rows = pairs(sizes.prompts * STEPS, sizes.prompt, sizes.prompt, config.vocab_size)
    check = MemoryCheck(config, rows, dtype="auto", lora_r=lora_r, device=report.device)
    run = Run(
        way=way,
        config=config,
        args=args,
        lora_r=lora_r,
        rows=rows,
        sizes=sizes,
        estimate=check.estimate(args),
        num_parameters=check.num_parameters(),
    )
    return run, lacking(run, report.device)


def lacking(run: Run, device: torch.device) -> str | None:
    """What the run needs and is not there; None if it fits device and host."""
    there = available(device)
    if run.estimate.peak > there:
        return f"it takes {run.estimate.peak / GIB:.1f} GiB by our estimate, {there / GIB:.1f} are available"
    host, free_there = run.estimate.host, available(torch.device("cpu"))
    if device.type != "cpu" and host > free_there:
        return f"it takes {host / GIB:.1f} GiB of the host's memory, {free_there / GIB:.1f} are available"
    return None


def _facts(run: Run) -> dict[str, Any]:
    return {
        "parameters": run.num_parameters,
        "prompts": run.sizes.prompts,
        "prompt_tokens": run.sizes.prompt,
        "completion_tokens": run.sizes.completion,
        "estimate_bytes": run.estimate.as_dict(),
    }


# -- measuring ---------------------------------------------------------------------------------------------------------


class Clock(TrainerCallback):
    """Wall seconds of steps, and the device's peaks in each half of them. It must be a trainer's last callback.

    After every step they are put into the report, as steps of ``name``.
    """

    def __init__(self, report: Report, name: str) -> None:
        self.seconds: list[float] = []
        self.allocated: dict[str, list[int | None]] = {"rollout and teacher": [], "student and optimizer": []}
        self.reserved: list[int | None] = []
        self._report, self._name, self._last = report, name, 0.0

    @property
    def peaks(self) -> tuple[int, int] | None:
        """Most bytes of tensors, and most that were reserved for them; None if the device counts none."""
        tensors = [peak for half in self.allocated.values() for peak in half if peak is not None]
        reserved = [peak for peak in self.reserved if peak is not None]
        return (max(tensors), max(reserved)) if tensors and reserved else None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is ready; the clock starts."""
        self._last = self._now()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The step's completions are there, and scored by the teacher."""
        self._peak("rollout and teacher")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Optimizer and teacher have moved. Another step is not begun if it would not end in time."""
        now = self._now()
        self.seconds.append(now - self._last)
        self._last = now
        self._peak("student and optimizer")
        self._report.put(f"{self._name}: steps", {"seconds": self.seconds, "peak_allocated": self.allocated})
        if self._report.left() < 1.2 * self.seconds[-1]:
            control.should_training_stop = True

    def _now(self) -> float:
        synchronize(self._report.device)
        return time.perf_counter()

    def _peak(self, half: str) -> None:
        self.allocated[half].append(memory(self._report.device, "max_memory_allocated"))
        self.reserved.append(memory(self._report.device, "max_memory_reserved"))
        module: Any = torch.get_device_module(self._report.device)
        if hasattr(module, "reset_peak_memory_stats"):
            module.reset_peak_memory_stats()


def _measure(report: Report, run: Run) -> dict[str, Any]:
    device = report.device
    model = random_model(run.config, device, compute_dtype("auto", device))
    use_fast_attention(model)
    adapter = None
    if run.lora_r is not None:
        adapter = LoraConfig(r=run.lora_r, lora_alpha=run.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
    engine = ENGINES["own"](model, {NO_TOKEN}, 0, BATCH_SIZE)
    trainer = SDFTTrainer(model, run.args, run.rows, tokenizer(), peft_config=adapter, engine=engine)
    clock = Clock(report, run.way)
    trainer.add_callback(clock)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    by_step = [_phases(entry, seconds) for entry, seconds in zip(logged, clock.seconds, strict=True)]
    phases = by_step[-1]
    found = {
        "losses": [entry["loss"] for entry in logged],
        "seconds": clock.seconds,
        "phases": phases,
        "phases_by_step": by_step,
        **memory_found(device, run, clock),
        **_rates(report, run, clock.seconds[-1], phases),
    }
    _summarize(report, run, found)
    return found


def _phases(logged: dict[str, float], seconds: float) -> dict[str, float]:
    """Seconds of a step by phase, from what the trainer logged and how long the step took."""
    prefix = "seconds/"
    phases = {name.removeprefix(prefix): took for name, took in logged.items() if name.startswith(prefix)}
    return phases | {"optimizer and the rest": seconds - sum(phases.values())}


def memory_found(device: torch.device, run: Run, clock: Clock) -> dict[str, Any]:
    """Peaks in bytes, and the estimate's ratio to them; None where the device does not count.

    ``peak`` is what torch reserved at most and what is in use beside that: the context, and other programs.
    """
    in_use, now, peaks = taken(device), memory(device, "memory_reserved"), clock.peaks
    if in_use is None or now is None or peaks is None:
        names = (
            "peak_allocated",
            "peak_reserved",
            "beside_torch",
            "peak",
            "estimate_ratio",
            "estimate_ratio_of_tensors",
        )
        return dict.fromkeys(names)
    allocated, reserved = peaks
    beside, estimate = in_use - now, run.estimate
    return {
        "peak_allocated": allocated,
        "peak_reserved": reserved,
        "beside_torch": beside,
        "peak": reserved + beside,
        "estimate_ratio": estimate.peak / (reserved + beside),
        "estimate_ratio_of_tensors": (estimate.peak - estimate.program - estimate.fragmentation) / allocated,
    }


def _rates(report: Report, run: Run, seconds: float, phases: dict[str, float]) -> dict[str, Any]:
    """Tokens per second of sampling, and the share of the device's matrix peak over the whole step."""
    sizes = run.sizes
    lengths = [sizes.prompt] * sizes.prompts
    flops = step_flops(Shape.of(run.config), lengths, lengths, [sizes.completion] * sizes.prompts)
    peak = peak_flops(report)
    return {
        "rollout_tokens_per_s": sizes.prompts * sizes.completion / phases["rollout"],
        "matrix_peak_share": flops / seconds / peak if peak else None,
    }


def _summarize(report: Report, run: Run, found: dict[str, Any]) -> None:
    text = f"estimate {run.estimate.peak / GIB:.2f} GiB"
    if found["peak"] is not None:
        text += f", peak {found['peak'] / GIB:.2f}: ratio {found['estimate_ratio']:.2f}"
    report.say(f"{run.way}: {text}")
    phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in sorted(found["phases"].items()))
    report.say(f"{found['seconds'][-1]:.2f} s a step: {phases}")
