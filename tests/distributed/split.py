"""What one of the processes does that share a model (``together``)."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.processes import SHAPES, train
from selfdistill.launcher import place
from selfdistill.method import batch
from selfdistill.method.batch import Part
from selfdistill.method.processes import Processes
from selfdistill.method.rows import training_pairs
from selfdistill.method.slices import local, whole
from selfdistill.method.step import PartLoss, Step
from selfdistill.models.adapters import lora
from tests.distributed.worker import SAVED
from tests.support.engines import Scripted
from tests.support.tiny import byte_tokenizer
from tests.support.training import ROWS, make_config, make_trainer, script, student

IN_TWO = tuple(
    f"split, {name}"
    for name in ("full, ema", "full, frozen", "lora, ema", "clipped", "one process masked", "demonstrations")
)
IN_THREE = ("split, 5 rows", "split, other demonstrations", "split, anchors")
"""Configurations of the benchmark by number of processes."""
EXCHANGED = ("row by row", "recomputed")
SPLIT: dict[str, Any] = {**SAVED, "shard_weights": True}
"""A run of four steps with checkpoints."""


def equivalence(folder: Path) -> None:
    """Trains configurations as the benchmark does."""
    size = place().size
    for name in IN_TWO if size == 2 else IN_THREE:
        train(name, folder / str(size) / name, SHAPES[size])


def perturbed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Other weights of the same names: each with noise of a tenth of its spread."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: weight + 0.1 * weight.std() * torch.randn(weight.shape, generator=generator)
        for name, weight in weights.items()
    }


def scored(step: Step, number: int) -> tuple[list[Tensor], float]:
    """Divergences of the completions of this process's rows in nats, and its part of the loss. Leaves gradients."""
    found: list[tuple[Part, PartLoss]] = []
    step.on_part = lambda part, loss: found.append((part, loss))
    pairs = training_pairs(ROWS[:number], step.config, byte_tokenizer(), step.model.config)  # type: ignore[arg-type]
    (whole_step,) = step.micro_batches(step.rollout(pairs, 0), 1)
    total = float(step.learn(whole_step))
    return [loss.per_token for _, loss in found], total


def exchanged(folder: Path) -> None:
    """A teacher with other weights than the student scores, with a pass for each row, or with activations computed
    again; what is there before and afterwards."""
    here = Processes.here(make_config(folder / "unused").device)
    config = make_config(folder / "unused", shard_weights=True, teacher="frozen")
    limit = batch.CPU_TOKENS_PER_FORWARD
    for name in EXCHANGED:
        model = student()
        if name == "recomputed":
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        batch.CPU_TOKENS_PER_FORWARD = 1 if name == "row by row" else limit
        step = Step(model, byte_tokenizer(), config, engine=Scripted(script()), processes=here)
        parameters = step.masters.parameters
        before = {key: whole(parameter).clone() for key, parameter in parameters.items()}
        step.teachers["teacher"].load_state_dict(perturbed(before))
        values, total = scored(step, 5)
        kept, others = step.teachers["teacher"].state_dict(), perturbed(before)
        facts = {
            "as before": all(torch.equal(before[key], whole(parameter)) for key, parameter in parameters.items()),
            "teacher as before": all(torch.equal(others[key], whole(kept[key])) for key in others),
            "loss": here.totals(total)[0],
            "own": sum(local(parameter).numel() for parameter in parameters.values()),
            "all": sum(parameter.numel() for parameter in parameters.values()),
            "dtypes": sorted({str(local(parameter).dtype) for parameter in parameters.values()}),
            "values": [value.tolist() for value in values],
        }
        (folder / f"{name}-{here.rank}.json").write_text(json.dumps(facts))
        gradients = {key: whole(master.grad) for key, _, master in step.masters.items() if master.grad is not None}
        save_file({key: one.contiguous() for key, one in gradients.items()}, folder / f"{name}-{here.rank}.safetensors")


def halves(folder: Path) -> None:
    """A run in bfloat16."""
    trainer = make_trainer(folder / "bfloat16", model=student(torch.bfloat16), **{**SPLIT, "optim": "sgd"})
    trainer.train()
    trainer.save_model(str(folder / "bfloat16" / "model"))


def saved(folder: Path) -> None:
    """Models that are saved, with a head of their own and without, and an adapter."""
    models: dict[str, Any] = {"own head": student(), "tied head": student(tie_word_embeddings=True)}
    models["adapter"] = lora(student(), r=2, alpha=4, dropout=0.0)
    for name, model in models.items():
        trainer = make_trainer(folder / name, model=model, shard_weights=True, optim="adamw_torch_fused")
        trainer.train()
        trainer.save_model()
        weights = {name: whole(p.detach()).contiguous() for name, p in trainer.model.named_parameters()}
        save_file(weights, folder / name / f"weights-{place().rank}.safetensors")


TAUGHT: dict[str, Any] = {
    "divergence_support": "top_k",
    "divergence_top_k": 20,
    "divergence_tail": True,
    "max_steps": 2,
    "gradient_accumulation_steps": 1,
    "rows": ROWS[:5],
}
"""A run whose second step has a single row: in all but one process there is none."""


def taught(folder: Path) -> None:
    """A run whose teacher is behind the server at the address in the file ``url``."""
    url, size = (folder / "url").read_text(), 4 // place().size
    trainer = make_trainer(
        folder / "taught", teacher_server=url, shard_weights=True, per_device_train_batch_size=size, **TAUGHT
    )
    trainer.train()
    trainer.save_model()


def unbroken(folder: Path) -> None:
    """Runs of four steps, of all weights and of an adapter."""
    make_trainer(folder / "unbroken", **SPLIT).train()
    make_trainer(folder / "adapter unbroken", model=lora(student(), r=2, alpha=4, dropout=0.0), **SPLIT).train()


def resumed(folder: Path) -> None:
    """Goes on with them from their second step."""
    kinds = {"unbroken": student(), "adapter unbroken": lora(student(), r=2, alpha=4, dropout=0.0)}
    for name, model in kinds.items() if place().size == 2 else [("unbroken", student())]:
        out = folder / f"{name} resumed in {place().size}"
        trainer = make_trainer(out, model=model, **SPLIT)

        def copied(source: Path = folder / name, out: Path = out) -> None:
            shutil.copytree(source, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-4"))

        trainer.processes.once(copied)
        trainer.checkpoints.on_warning = lambda text: None
        trainer.train(resume_from_checkpoint=True, allow_changes=place().size != 2)
