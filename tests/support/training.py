"""A trainer of a tiny model whose completions a test decides, and what it leaves."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfdistill import SDFTConfig, SDFTTrainer
from selfdistill.method.methods import METHODS
from selfdistill.types import Rollout
from tests.support.engines import Script, Scripted
from tests.support.tiny import byte_tokenizer, random_model

ROWS: list[dict[str, str]] = [{"prompt": f"What is {n}?", "demonstration": f"It is {n}."} for n in range(8)]
SIZES: dict[str, Any] = {"vocab_size": 300, "max_position_embeddings": 512}
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_completion_length": 8,
    "max_steps": 1,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "max_grad_norm": 0.0,
}


def script(
    length: Callable[[Sequence[int]], int] = lambda prompt: 3 + len(prompt) % 3, finish: Any = "stop", **facts: Any
) -> Script:
    """Completions that are a function of the prompt, so that runs can be compared."""

    def complete(prompt: Sequence[int]) -> Rollout:
        generator = torch.Generator().manual_seed(sum(prompt))
        ids = torch.randint(60, 90, (length(prompt),), generator=generator).tolist()
        return Rollout(completion_ids=tuple(ids), finish_reason=finish, **facts)

    return complete


def student(dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A tiny model that knows every token of ``byte_tokenizer``."""
    return random_model("llama", dtype=dtype, **{**SIZES, **settings})


def make_config(folder: Path, **settings: Any) -> SDFTConfig:
    """Settings for a step of eight rows; where a teacher is shown the demonstration, it is as an earlier turn."""
    shown = METHODS[settings.get("method", "sdft")].shows_demonstration
    values: dict[str, Any] = {**SETTINGS, **({"template": "prior_turn"} if shown else {}), **settings}
    return SDFTConfig(output_dir=str(folder), **values)


def make_trainer(
    folder: Path,
    *,
    model: Any = None,
    rows: Any = ROWS,
    tokenizer: Any = None,
    engine: Any = None,
    options: Any = None,
    **settings: Any,
) -> SDFTTrainer:
    """A trainer that writes into ``folder``; its completions are scripted unless ``settings`` name a rollout engine.

    ``options``: what SDFTTrainer takes beside model, config, rows, tokenizer and engine.
    """
    config = make_config(folder, **settings)
    if engine is None and "rollout_engine" not in settings:
        engine = Scripted(script())
    return SDFTTrainer(
        student() if model is None else model,
        config,
        rows,
        tokenizer or byte_tokenizer(),
        engine=engine,
        **(options or {}),
    )


def weights(trainer: SDFTTrainer) -> dict[str, Tensor]:
    """The model's weights as they are now, in fp32."""
    return {name: p.detach().float().clone() for name, p in trainer.model.named_parameters()}


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """The values of a JSON-lines file of a run."""
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def steps(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics that are of a step."""
    return [line for line in lines(folder, "metrics.jsonl") if "loss" in line]
