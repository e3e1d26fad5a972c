"""Is it right? Whole steps on the device against the CPU, and a run that resumes."""

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from gpu_check.models import Scripted, pairs, relative_error, tiny_model, tokenizer
from gpu_check.report import Report
from selfdistill.method.config import SDFTConfig
from selfdistill.method.divergence import DIVERGENCES
from selfdistill.method.methods import METHODS
from selfdistill.method.step import Step
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.models import adapters
from selfdistill.settings.method import MethodConfig
from selfdistill.types import TeacherKind

STEPS = 3
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
"""Largest relative errors of losses and of gradients in fp32 on the device against the CPU."""
RESUME_TOLERANCE = 0.02
"""Largest difference between a resumed run's update and the whole run's, relative to it: kernels that add in any order
round differently each time, and AdamW magnifies that where gradients are small."""
CASES: dict[str, dict[str, Any]] = {
    **{f"method {name}": {"method": name} for name in METHODS},
    **{f"teacher {kind}": {"teacher": kind} for kind in get_args(TeacherKind)},
    "teacher ema on the host": {"teacher_home": "host"},
    "teacher frozen on the host": {"teacher": "frozen", "teacher_home": "host"},
    **{f"divergence {kind}": {"divergence": kind} for kind in DIVERGENCES},
    "top k, tail": {"divergence_support": "top_k", "divergence_top_k": 10, "divergence_tail": True},
    "sampled": {"divergence": "reverse_kl", "divergence_support": "sampled"},
    "temperature, clip, skip": {"temperature": 0.7, "divergence_clip": 2.0, "num_loss_tokens_to_skip": 1},
    "mean over tokens": {"loss_reduction": "token_mean"},
    "anchors": {"anchor_share": 0.5},
    "LoRA": {"lora": True},
    "LoRA, frozen": {"lora": True, "teacher": "frozen"},
    "qwen2": {"family": "qwen2"},
}
"""Settings of a run that differ from the defaults; ``lora`` and ``family`` are of the model."""


def steps(report: Report) -> None:
    """Three steps of every kind in fp32 on the device and on the CPU: the losses and the gradients of each."""
    for name, settings in CASES.items():
        report.part(name, lambda s=settings: _compared(report.device, s), needs=2.0)
    found = report.found["parts"].values()
    worst = max((part["gradient_error"] for part in found), default=0.0)
    agree = sum(part["ok"] for part in found)
    report.say(f"{agree} of {len(CASES)} kinds of run are as on the CPU; largest error of a gradient {worst:.1e}")


def _compared(device: torch.device, settings: dict[str, Any]) -> dict[str, Any]:
    ours, exact = (_three_steps(place, **settings) for place in (device, torch.device("cpu")))
    errors = {name: relative_error(ours[name], exact[name]) for name in exact}
    return {
        **{f"{name}_error": error for name, error in errors.items()},
        "ok": errors["loss"] < LOSS_TOLERANCE and errors["gradient"] < GRADIENT_TOLERANCE,
    }


def _three_steps(
    device: torch.device, *, lora: bool = False, family: str = "llama", **settings: Any
) -> dict[str, Tensor]:
    """Losses [steps] and gradients [steps, trained weights]."""
    model: Any = tiny_model(torch.device("cpu"), family)
    if lora:
        torch.manual_seed(1)  # the adapter's first weights
        model = adapters.lora(model, r=4, alpha=8, dropout=0.0)
    model = model.to(device)
    kind = METHODS[settings.get("method", "sdft")]
    values: dict[str, Any] = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, **settings}
    config = MethodConfig(teacher_update_rate=0.3, **values)
    base = {name: p.detach() * 1.5 for name, p in model.named_parameters()} if kind.teacher == "base_model" else None
    rows = pairs(8, 20, 30, 300, demonstration=6)
    step = Step(model, tokenizer(), config, anchors=pairs(3, 15, 15, 300), base_weights=base, engine=Scripted())
    trained = [master for _, _, master in step.masters.items()]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    losses, gradients = [], []
    with step.masters.attached():
        for number in range(STEPS):
            batches = step.micro_batches(step.rollout(rows, number), 2)
            losses.append(torch.stack([step.learn(micro_batch) for micro_batch in batches]).sum())
            gradients.append(torch.cat([_gradient(master).flatten() for master in trained]))
            step.masters.update(optimizer.step)
            step.follow(number + 1)
    return {"loss": torch.stack(losses), "gradient": torch.stack(gradients)}


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


# -- the trainer -------------------------------------------------------------------------------------------------------


def resume(report: Report) -> None:
    """A run of four steps that is stopped after two and goes on, against one that is not stopped."""
    if find_spec("pydantic") is None:
        report.skip("resume", "pydantic is not installed")
        return
    for name, dtype in {"fp32": torch.float32, "bf16 with masters": torch.bfloat16}.items():
        found = report.part(name, lambda dtype=dtype: _resumed(report.device, dtype))
        if found:
            report.say(f"{name}: a resumed run differs from the whole one by {found['update_error']:.1e}")


def _resumed(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        whole = _trainer(Path(folder, "whole"), device, dtype)
        start = _weights(whole)
        whole.train()
        shutil.rmtree(Path(folder, "whole", "checkpoint-4"))
        again = _trainer(Path(folder, "whole"), device, dtype)
        again.train(resume_from_checkpoint=True)
        update, other = _weights(whole) - start, _weights(again) - start
    error = relative_error(other, update)
    return {"update_error": error, "equal": error == 0.0, "ok": error < RESUME_TOLERANCE}


def _trainer(folder: Path, device: torch.device, dtype: torch.dtype) -> SDFTTrainer:
    """A trainer with scripted completions, that saves every second step."""
    args = SDFTConfig(
        output_dir=str(folder),
        use_cpu=device.type == "cpu",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_completion_length=8,
        teacher_update_rate=0.3,
        max_steps=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        warmup_steps=0,
        save_strategy="steps",
        save_steps=2,
    )
    return SDFTTrainer(tiny_model(device, dtype=dtype), args, pairs(16, 20, 30, 300), tokenizer(), engine=Scripted())


def _weights(trainer: SDFTTrainer) -> Tensor:
    """All masters as one vector."""
    masters = trainer.step.masters
    return torch.cat([masters.value(name).flatten().clone() for name in masters.parameters])
