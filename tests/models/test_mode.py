"""Neither role draws random numbers while a model is trained, and afterwards the model is as it was."""

import contextlib
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from selfdistill.models.mode import evaluating, without_noise

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")

IDS = torch.tensor([[3, 4, 5, 6]])
NOISY: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_dropout": 0.5}),
    ("gemma2", {"attention_dropout": 0.5}),
    ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}),
    ("opt", {"word_embed_proj_dim": 16, "ffn_dim": 16, "dropout": 0.5, "attention_dropout": 0.5}),
    ("mixtral", {"router_jitter_noise": 0.5, "attention_dropout": 0.5}),
    ("persimmon", {"hidden_dropout": 0.5, "attention_dropout": 0.5}),
]
CONFIG_RATE = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
"""A Falcon's: its layers read the rate of their dropout from the config. It takes no ``head_dim``."""
IN_EACH = pytest.mark.parametrize("inside", [evaluating, without_noise])


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS, use_cache=False).logits


def state(model: nn.Module) -> list[tuple[bool, dict[str, Any], dict[str, Any]]]:
    """Modes and rates of every module, and the rates of its config."""

    def rates(holder: Any) -> dict[str, Any]:
        return {name: value for name, value in vars(holder).items() if isinstance(value, float)} if holder else {}

    return [(m.training, rates(m), rates(getattr(m, "config", None))) for m in model.modules()]


@IN_EACH
@pytest.mark.parametrize(("family", "settings"), NOISY, ids=[family for family, _ in NOISY])
def test_a_model_in_train_mode_is_deterministic_inside(
    tiny_model: Any, inside: Any, family: str, settings: dict[str, Any]
) -> None:
    model = tiny_model(family, **settings)
    still = logits(model)
    model.train()
    assert not torch.equal(logits(model), logits(model))
    before = state(model)
    with inside(model):
        assert torch.equal(logits(model), still)
    assert state(model) == before
    assert not torch.equal(logits(model), logits(model))


def test_a_rate_that_layers_read_from_the_config() -> None:
    """Layers in training mode, as those that keep no activations must be, draw by it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("falcon", **CONFIG_RATE, hidden_dropout=0.5, attention_dropout=0.5)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    still = logits(model)
    model.gradient_checkpointing_enable()
    before = state(model.train())
    assert not torch.equal(logits(model), logits(model))
    with without_noise(model):
        assert torch.equal(logits(model), still)
    assert state(model) == before


@IN_EACH
def test_dropout_of_an_adapter(tiny_model: Any, inside: Any) -> None:
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.5)
    model = get_peft_model(tiny_model("llama"), config).train()
    assert not torch.equal(logits(model), logits(model))
    with inside(model):
        assert torch.equal(logits(model), logits(model))


@pytest.mark.parametrize(("family", "settings"), NOISY, ids=[family for family, _ in NOISY])
def test_layers_that_keep_no_activations_do_so_inside_and_without_noise(
    tiny_model: Any, family: str, settings: dict[str, Any]
) -> None:
    """They run a second time in the backward pass, which they do in training mode only."""
    model: Any = tiny_model(family, **settings)
    plain = model(input_ids=IDS, labels=IDS, use_cache=False)
    plain.loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model.train()
    before, runs = state(model), [0]
    layer = next(module for name, module in model.named_modules() if name.endswith(("layers.0", "h.0")))
    inner = next(module for module in layer.modules() if isinstance(module, nn.Linear) or hasattr(module, "nf"))
    inner.register_forward_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))
    with without_noise(model):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
    assert runs == [2]
    assert float(loss.detach()) == pytest.approx(float(plain.loss.detach()), rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-5, atol=1e-7)
    assert state(model) == before


@IN_EACH
def test_each_module_comes_back_into_its_own_mode_also_after_an_error(tiny_model: Any, inside: Any) -> None:
    model: Any = tiny_model(attention_dropout=0.5).train()
    model.gradient_checkpointing_enable()
    model.model.layers[0].eval()
    before = state(model)
    with contextlib.suppress(KeyError), inside(model):
        assert not model.training
        raise KeyError
    assert state(model) == before


def test_a_number_that_routes_in_eval_mode_too_is_left_alone(tiny_model: Any) -> None:
    """PhiMoE's jitter is no noise but a threshold of its routing: without it, it would be another model."""
    model = tiny_model("phimoe", router_jitter_noise=0.01, num_local_experts=4, num_experts_per_tok=2)
    model.config.output_router_logits = False
    still = logits(model)
    with without_noise(model.train()):
        assert torch.equal(logits(model), still)
        assert model.config.router_jitter_noise == 0.01
