"""use_liger_kernel: refused where it would do nothing, otherwise a training step runs Liger's modules."""

import sys
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers.integrations import liger as in_transformers

from selfdistill.method import liger
from selfdistill.method.rollout.own import why_not_own
from tests.support.mistakes import mistake
from tests.support.tiny import random_model
from tests.support.training import SIZES, make_config, make_trainer, steps


class FakeLiger:
    """Stands for Liger: its gated block computes what the model's own does, and counts."""

    def __init__(self) -> None:
        self.runs = 0
        self.given: list[dict[str, Any]] = []

    def apply(
        self,
        rope: bool = True,
        cross_entropy: bool = False,
        fused_linear_cross_entropy: bool = True,
        swiglu: bool = True,
        model: Any = None,
    ) -> None:
        self.given.append({"rope": rope, "swiglu": swiglu, "losses": cross_entropy or fused_linear_cross_entropy})
        if fused_linear_cross_entropy or cross_entropy:
            model.forward = MethodType(lambda *_, **__: pytest.fail("Liger's loss is in the model"), model)
        for layer in model.model.layers if swiglu else ():
            layer.mlp.forward = MethodType(self.gated_block, layer.mlp)

    def gated_block(self, mlp: Any, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLiger:
    """Liger as if it were installed, and this device as if it had Triton."""
    made = FakeLiger()
    functions = {"llama": made.apply, "qwen2": made.apply}
    root, inner, patches = (
        ModuleType(f"liger_kernel{name}") for name in ("", ".transformers", ".transformers.patches")
    )
    inner.__dict__["_apply_liger_kernel_to_instance"] = lambda model, **kwargs: functions[model.config.model_type](
        model=model, **kwargs
    )
    patches.__dict__["MODEL_TYPE_TO_APPLY_LIGER_FN"] = functions
    names = ("liger_kernel", "liger_kernel.transformers", "liger_kernel.transformers.monkey_patch")
    for name, module in zip(names, (root, inner, patches), strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    for module in (liger, in_transformers):
        monkeypatch.setattr(module, "is_liger_kernel_available", lambda: True)
    monkeypatch.setattr(liger, "WITHOUT_TRITON", ())
    return made


# -- refused -----------------------------------------------------------------------------------------


def test_without_a_gpu(tmp_path: Path) -> None:
    text = mistake(make_config, tmp_path, use_liger_kernel=True)
    assert (
        text == "use_liger_kernel: Liger's kernels run on GPUs that Triton supports; this run is on cpu. Leave it out."
    )


def test_without_the_package(tmp_path: Path, fake: FakeLiger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liger, "is_liger_kernel_available", lambda: False)
    text = mistake(make_config, tmp_path, use_liger_kernel=True)
    assert "liger-kernel 0.3 or newer is not installed. Install it with pip install liger-kernel" in text


def test_a_package_that_cannot_be_imported(tmp_path: Path, fake: FakeLiger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", None)
    assert "liger-kernel can't be used (import of " in mistake(make_trainer, tmp_path, use_liger_kernel=True)


@pytest.mark.parametrize("name", liger.LOSSES)
def test_ligers_losses(tmp_path: Path, fake: FakeLiger, name: str) -> None:
    text = mistake(make_config, tmp_path, use_liger_kernel=True, liger_kernel_config={name: True})
    assert f"{name} has no effect here. The loss is the method's own." in text


def test_choices_without_liger(tmp_path: Path) -> None:
    text = mistake(make_config, tmp_path, liger_kernel_config={"rope": False})
    assert "counts only with use_liger_kernel=true" in text


def test_kernels_that_liger_has_not(tmp_path: Path, fake: FakeLiger) -> None:
    """Liger itself would say nothing."""
    gemma: Any = random_model("gemma2", **SIZES)
    text = mistake(make_trainer, tmp_path, model=gemma, use_liger_kernel=True)
    assert text == "use_liger_kernel: Liger has no kernels for models of type gemma2. Leave it out."
    text = mistake(make_trainer, tmp_path, use_liger_kernel=True, liger_kernel_config={"swigloo": True})
    assert "Liger has no 'swigloo' for models of type llama, only rope, swiglu. Did you mean 'swiglu'?" in text


# -- used --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2, target_modules="all-linear")], ids=["whole", "lora"])
def test_a_training_step_runs_ligers_modules(tmp_path: Path, fake: FakeLiger, model_type: str, adapter: Any) -> None:
    found = {}
    for name, settings in {"plain": {}, "liger": {"use_liger_kernel": True}}.items():
        torch.manual_seed(0)
        trainer = make_trainer(
            tmp_path / name,
            model=random_model(model_type, **SIZES),
            rollout_engine="own",
            options={"peft_config": adapter},
            max_steps=2,
            num_train_epochs=2,
            **settings,
        )
        trainer.train()
        found[name] = [line["loss"] for line in steps(tmp_path / name)]
        assert (fake.runs > 0) == (name == "liger")
    assert found["liger"] == found["plain"]


def test_what_is_chosen_reaches_liger(tmp_path: Path, fake: FakeLiger) -> None:
    make_trainer(tmp_path, use_liger_kernel=True, liger_kernel_config={"swiglu": False}).train()
    assert fake.given == [{"rope": True, "swiglu": False, "losses": False}]
    assert fake.runs == 0


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_liger_leaves_our_decoding_loop_as_it_is(fake: FakeLiger, model_type: str) -> None:
    model = random_model(model_type, **SIZES)
    fake.apply(fused_linear_cross_entropy=False, model=model)
    assert why_not_own(model) is None
    assert fake.runs > 0
