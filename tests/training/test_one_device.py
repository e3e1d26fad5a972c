"""Model, dtype, memory check and trainer use one device, whichever is chosen."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer

from selfdistill.commands import train
from selfdistill.method import config as config_module
from selfdistill.method import memory
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.models import device as device_module
from selfdistill.models import loading
from selfdistill.models.attention import NAME, use_fast_attention
from selfdistill.models.device import default_device
from selfdistill.training import run
from tests.support.study_home import QUIET
from tests.support.training import make_config, make_trainer, student, weights


@pytest.fixture
def with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a CUDA card, on which nothing can be computed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(device_module, "os", SimpleNamespace(environ={}))


@pytest.mark.usefixtures("with_a_gpu")
def test_use_cpu_holds_for_model_dtype_memory_and_trainer(
    options: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []
    load, dtype, make, there = loading.load_model, loading.compute_dtype, run.SDFTTrainer, memory.available

    def loaded(name: str, **settings: Any) -> Any:
        asked.append(("model", settings["device"]))
        return load(name, **settings)

    def computes(name: str, device: torch.device) -> torch.dtype:
        asked.append(("dtype", str(device)))
        return dtype(name, device)

    def trains(model: Any, config: Any, *arguments: Any, **settings: Any) -> SDFTTrainer:
        asked.append(("trainer", str(config.device)))
        trainer = make(model, config, *arguments, **settings)
        asked.append(("timer", str(trainer.timer._device)))
        asked.append(("weights", str(trainer.model.device)))
        return trainer

    def has(device: torch.device) -> int:
        asked.append(("memory", str(device)))
        return there(device)

    monkeypatch.setattr(loading, "load_model", loaded)
    for module in (loading, memory):
        monkeypatch.setattr(module, "compute_dtype", computes)
    monkeypatch.setattr(memory, "available", has)
    monkeypatch.setattr(run, "SDFTTrainer", trains)
    assert default_device().type == "cuda"
    train.run(options(template="paper", max_steps=1, dtype="auto", set=("use_cpu=true",)), QUIET)
    assert {what for what, _ in asked} == {"model", "dtype", "trainer", "timer", "weights", "memory"}
    assert {device for _, device in asked} == {"cpu"}
    assert (home / "out" / "model.safetensors").is_file()


def test_a_device_is_prepared_for_before_transformers_initialises_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    monkeypatch.setattr(config_module, "prepare_device", lambda device: prepared.append(device.type))
    monkeypatch.setattr(config_module, "default_device", lambda: torch.device("cuda"))
    setup = config_module.TrainingArguments.__post_init__

    def initialises(self: Any) -> None:
        prepared.append("transformers")
        setup(self)

    monkeypatch.setattr(config_module.TrainingArguments, "__post_init__", initialises)
    make_config(tmp_path)
    assert prepared == ["cuda", "transformers", "cpu"]  # the second is what transformers found here
    prepared.clear()
    make_config(tmp_path, use_cpu=True)
    assert prepared == ["transformers", "cpu"]


def test_a_model_that_the_trainer_moves_off_the_cpu_leaves_the_cpus_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands for the accelerator: tensors there have shapes, and no numbers."""
    model = student(torch.bfloat16)
    use_fast_attention(model)
    assert model.config._attn_implementation == NAME
    monkeypatch.setattr(Trainer, "_move_model_to_device", lambda self, model, device: model.to("meta"))
    trainer = make_trainer(tmp_path, model=model)
    assert trainer.model.device.type == "meta"
    assert trainer.model.config._attn_implementation == "sdpa"


def test_a_model_that_stays_on_the_cpu_keeps_its_attention(tmp_path: Path) -> None:
    model = student(torch.bfloat16)
    use_fast_attention(model)
    trainer = make_trainer(tmp_path, model=model)
    before = weights(trainer)
    trainer.train()
    assert trainer.model.config._attn_implementation == NAME
    assert any(not torch.equal(before[name], after) for name, after in weights(trainer).items())
