"""Optimizers by transformers' names: what they are made for, and the memory they take."""

from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.method.memory import estimate
from selfdistill.method.optimizers import state_bytes
from selfdistill.settings.method import MethodConfig
from tests.support.training import make_trainer, student

SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 300, "head_dim": 32}


@pytest.mark.parametrize(
    ("name", "on_cpu", "expected"),
    [
        ("adamw_torch", True, 8_000_000),
        ("adamw_torch_fused", False, 8_000_000),
        # a block of 256 numbers has one fp32 scale; 200,000 numbers of embeddings stay in fp32
        ("adamw_8bit", False, 2 * (200_000 * 4 + 800_000 + 800_000 * 4 // 256)),
        ("lion_8bit", False, 200_000 * 4 + 800_000 + 800_000 * 4 // 256),
        ("lion_32bit", False, 4_000_000),
        ("paged_adamw_8bit", False, 0),
        ("paged_adamw_32bit", True, 8_000_000),
        ("sgd", True, 0),
        ("adafactor", True, 0),
        ("unheard_of", True, 8_000_000),
    ],
)
def test_state_bytes_by_hand(name: str, on_cpu: bool, expected: int) -> None:
    assert state_bytes(name, 1_000_000, 200_000, on_cpu=on_cpu) == expected


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "adamw_8bit", "lion_8bit", "sgd", "adafactor"])
def test_the_estimate_is_what_an_optimizer_holds(tmp_path: Path, name: str) -> None:
    trainer = make_trainer(tmp_path, model=student(torch.bfloat16, **SIZES), optim=name, max_steps=1)
    trainer.train()
    optimizer = trainer.optimizer
    assert optimizer is not None
    held = sum(
        tensor.nbytes
        for state in optimizer.state.values()
        for key, tensor in state.items()
        if isinstance(tensor, torch.Tensor) and tensor.dim() and not key.startswith("qmap")
    )
    weights = sum(parameter.numel() for parameter in trainer.model.parameters())
    parts = estimate(
        trainer.model.config,
        trainer.args,
        weight_bytes=2 * weights,
        num_trainable=weights,
        bytes_per_weight=2,
        adapter=False,
        lengths=[1],
        longest_prompt=1,
    )
    lower_halves = 2 * weights
    slack = (0.1 if name == "adafactor" else 0.03) * weights  # its rows and columns; tensors of less than 4,096 numbers
    assert abs(parts.masters_and_optimizer - lower_halves - held) <= slack


def test_embeddings_keep_moments_of_32_bits(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, model=student(torch.bfloat16, **SIZES), optim="adamw_8bit", max_steps=1)
    trainer.train()
    optimizer = trainer.optimizer
    assert optimizer is not None
    masters = trainer.step.masters.masters
    dtypes = {name: optimizer.state[master]["state1"].dtype for name, master in masters.items()}
    assert dtypes["model.embed_tokens.weight"] == torch.float32
    assert dtypes["model.layers.0.mlp.up_proj.weight"] == torch.uint8
    assert dtypes["model.norm.weight"] == torch.float32


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_moments_in_8_bits_learn_like_those_in_32(tmp_path: Path, name: str) -> None:
    def end(optim: str) -> torch.Tensor:
        trainer = make_trainer(
            tmp_path / optim, model=student(torch.bfloat16, **SIZES), optim=optim, max_steps=3, learning_rate=1e-3
        )
        start = torch.cat([parameter.detach().float().flatten() for parameter in trainer.model.parameters()])
        trainer.train()
        return torch.cat([parameter.detach().float().flatten() for parameter in trainer.model.parameters()]) - start

    exact, short = end("adamw_torch"), end(name)
    assert torch.nn.functional.cosine_similarity(exact, short, dim=0) > 0.9


def test_the_settings_default_is_an_optimizer_of_torch() -> None:
    assert MethodConfig().optim == "adamw_torch_fused"
