"""The loop in examples/ is the whole method: it learns as the trainer does."""

import importlib.util
from pathlib import Path
from typing import Any

import torch

from selfdistill import SDFTConfig, SDFTTrainer
from selfdistill.method.rows import training_pairs
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Rollout
from tests.support.engines import Scripted
from tests.support.tiny import byte_tokenizer, random_model

FILE = Path(__file__).parents[2] / "examples" / "loop.py"
ROWS = [{"prompt": f"What is {n}?", "demonstration": f"It is {n}."} for n in range(12)]
SETTINGS: dict[str, Any] = {
    "template": "prior_turn",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch",
    "warmup_steps": 0,
    "max_completion_length": 16,
}


def loop() -> Any:
    spec = importlib.util.spec_from_file_location("loop", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def completion(prompt: Any) -> Rollout:
    ids = torch.randint(60, 90, (3 + len(prompt) % 3,), generator=torch.Generator().manual_seed(sum(prompt)))
    return Rollout(completion_ids=tuple(ids.tolist()), finish_reason="stop")


def test_its_losses_are_the_trainers(tmp_path: Path) -> None:
    tokenizer, engine = byte_tokenizer(), Scripted(completion)
    config = SDFTConfig(output_dir=str(tmp_path), max_steps=3, **SETTINGS)
    trainer = SDFTTrainer(random_model(vocab_size=len(tokenizer)), config, ROWS, tokenizer, engine=engine)
    trainer.train()
    wanted = [line["loss"] for line in trainer.state.log_history if "loss" in line]

    model = random_model(vocab_size=len(tokenizer))
    pairs = {pair.student_ids: pair for pair in training_pairs(ROWS, config, tokenizer, model.config)}
    batches = [[pairs[tuple(prompt)] for prompt in prompts] for prompts, _ in engine.calls]
    assert list(loop().train(model, tokenizer, config, batches, Scripted(completion))) == wanted
    assert wanted[0] != wanted[1] != wanted[2]


def test_a_loss_is_given_when_its_step_is_done() -> None:
    tokenizer, model = byte_tokenizer(), random_model(vocab_size=len(byte_tokenizer()))
    config = MethodConfig(template="prior_turn", max_completion_length=16, learning_rate=1e-2)
    pairs = training_pairs(ROWS, config, tokenizer, model.config)
    before = model.lm_head.weight.detach().clone()
    next(loop().train(model, tokenizer, config, [pairs], Scripted(completion)))
    assert not torch.equal(model.lm_head.weight, before)


def test_it_is_short() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert "import Trainer" not in text
