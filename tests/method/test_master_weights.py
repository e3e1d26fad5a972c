"""fp32 masters of bf16 parameters: small updates count, gradients add up in fp32, and nothing is lost on the way."""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfdistill.method.master_weights import MasterWeights


class One(nn.Module):
    """A single trainable vector."""

    def __init__(self, values: list[float], dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=dtype))


def push(module: One, *gradient: float) -> None:
    """A backward pass whose gradient to ``w`` is ``gradient``."""
    (module.w * torch.tensor(gradient, dtype=module.w.dtype)).sum().backward()


def optimizer(masters: MasterWeights, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([master for _, _, master in masters.items()], lr=lr)


def test_thousand_small_updates_move_the_master_and_not_bf16_alone() -> None:
    module, alone = One([1.0]), One([1.0])
    masters = MasterWeights(module)
    step, step_alone = optimizer(masters, 1e-4), torch.optim.SGD(alone.parameters(), lr=1e-4)
    for _ in range(1000):
        with masters.attached():
            push(module, -1.0)
            step.step()
            masters.write_back()
        alone.zero_grad()
        push(alone, -1.0)
        step_alone.step()
    assert alone.w.item() == 1.0  # 1.0001 rounds back to 1: the next bf16 number is 1.0078
    assert masters.masters["w"].item() == pytest.approx(1.1, abs=1e-4)
    assert module.w.dtype == torch.bfloat16
    assert module.w.item() == 1.1015625  # 141/128, the bf16 number next to 1.1


def test_gradients_add_up_in_fp32_and_leave_the_parameter() -> None:
    module = One([1.0])
    masters = MasterWeights(module)
    with masters.attached():
        push(module, 256.0)
        push(module, 1.0)  # bf16 has no 257: it would stay at 256
        master = masters.masters["w"]
        assert master.grad is not None
        assert master.grad.dtype == torch.float32
        assert master.grad.item() == 257.0
        assert module.w.grad is None


def test_write_back_rounds_and_clears() -> None:
    module = One([1.0, 2.0])
    masters = MasterWeights(module)
    with masters.attached():
        push(module, 1.0, 1.0)
        with torch.no_grad():
            masters.masters["w"].copy_(torch.tensor([1.003, 2.5]))
        assert module.w.tolist() == [1.0, 2.0]
        assert masters.masters["w"].grad is not None
        masters.write_back()
        assert masters.masters["w"].grad is None
    assert module.w.tolist() == [1.0, 2.5]  # 1.003 is nearer to 1 than to 1.0078
    assert masters.masters["w"].tolist() == pytest.approx([1.003, 2.5])  # the master keeps what was rounded away


def test_fp32_parameter_is_its_own_master() -> None:
    module = One([1.0], torch.float32)
    masters = MasterWeights(module)
    assert masters.masters["w"] is module.w
    assert masters.state_dict() == {}
    push(module, 3.0)
    assert module.w.grad is not None
    masters.write_back()
    assert module.w.grad.item() == 3.0  # whoever owns the parameter clears it
    masters.load_state_dict({})
    assert module.w.item() == 1.0


def test_untrained_parameters_have_no_master() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).to(torch.bfloat16)
    module[0].requires_grad_(False)
    assert [name for name, _, _ in MasterWeights(module).items()] == ["1.weight", "1.bias"]


def test_state_round_trip_restores_master_and_parameter() -> None:
    first, second = One([1.0, 2.0]), One([0.0, 0.0])
    masters, others = MasterWeights(first), MasterWeights(second)
    with torch.no_grad():
        masters.masters["w"].copy_(torch.tensor([1.003, 2.5]))
    state = {name: tensor.clone() for name, tensor in masters.state_dict().items()}
    assert {name: tensor.dtype for name, tensor in state.items()} == {"w": torch.float32}
    master = others.masters["w"]
    others.load_state_dict(state)
    assert others.masters["w"] is master  # an optimizer that holds it goes on with it
    assert torch.equal(master, state["w"])
    assert second.w.tolist() == [1.0, 2.5]


@pytest.mark.parametrize("names", [[], ["w", "v"], ["v"]], ids=str)
def test_state_of_another_model_is_refused(names: list[str]) -> None:
    masters = MasterWeights(One([1.0]))
    with pytest.raises(ValueError, match=r"do not fit the model: '[vw]' is on one side only"):
        masters.load_state_dict({name: torch.zeros(1) for name in names})


# -- from when to when the masters take the gradients ----------------------------------------------------


@pytest.mark.parametrize("attached_before", [False, True])
def test_outside_of_training_gradients_are_the_parameters(attached_before: bool) -> None:
    module = One([1.0])
    masters = MasterWeights(module)
    if attached_before:
        with contextlib.suppress(KeyError), masters.attached():
            push(module, 5.0)
            raise KeyError
    push(module, 3.0)
    assert module.w.grad is not None
    assert module.w.grad.item() == 3.0
    assert masters.masters["w"].grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_training_begins_and_ends_without_gradients(dtype: torch.dtype) -> None:
    """None of a step that was interrupted, none of somebody else's."""
    module = One([1.0], dtype)
    masters = MasterWeights(module)
    push(module, 3.0)
    with masters.attached():
        push(module, 2.0)
        assert masters.masters["w"].grad is not None
        assert masters.masters["w"].grad.item() == 2.0
    assert masters.masters["w"].grad is None
    assert module.w.grad is None


def test_two_masters_of_one_module_take_turns() -> None:
    module = One([1.0])
    first, second = MasterWeights(module), MasterWeights(module)
    for one, other in ((first, second), (second, first)):
        with one.attached():
            push(module, 2.0)
            assert one.masters["w"].grad is not None
            assert one.masters["w"].grad.item() == 2.0
            assert other.masters["w"].grad is None


def test_weights_that_came_from_outside_are_taken_over() -> None:
    """A master keeps what was rounded away, unless its parameter has become another number."""
    module = One([1.0, 2.0])
    masters = MasterWeights(module)
    with torch.no_grad():
        masters.masters["w"].copy_(torch.tensor([1.003, 2.001]))
    masters.write_back()
    masters.refresh()
    assert masters.masters["w"].tolist() == pytest.approx([1.003, 2.001])
    with torch.no_grad():
        module.w.copy_(torch.tensor([1.0, 4.0]))
    masters.refresh()
    assert masters.masters["w"].tolist() == [1.0, 4.0]


def test_nothing_trainable_is_refused() -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        MasterWeights(One([1.0]).requires_grad_(False))


def test_tied_weights_have_one_master_with_both_gradients(tiny_model: Any) -> None:
    ids = torch.tensor([[3, 4, 5, 6]])

    name = "model.embed_tokens.weight"

    def train(dtype: torch.dtype) -> tuple[nn.Module, MasterWeights, Tensor]:
        model = tiny_model("llama", dtype=dtype, tie_word_embeddings=True)
        masters = MasterWeights(model)
        with masters.attached():
            model(input_ids=ids, labels=ids).loss.backward()
            gradient = masters.masters[name].grad
            assert gradient is not None
            optimizer(masters, 0.1).step()
            masters.write_back()
        return model, masters, gradient

    _, _, expected = train(torch.float32)
    model, masters, ours = train(torch.bfloat16)
    assert "lm_head.weight" not in masters.masters
    assert _cosine(ours, expected) > 0.99
    assert ours[30].abs().max() > 0  # token 30 is not in the input: only the head's use gives it a gradient
    assert _cosine(ours[3], expected[3]) > 0.98  # token 3 gets one from both
    assert ours[3].norm().item() == pytest.approx(expected[3].norm().item(), rel=0.1)
    head, embedding = model.get_parameter("lm_head.weight"), model.get_parameter(name)
    assert head is embedding
    assert torch.equal(head, masters.masters[name].to(torch.bfloat16))


def _cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()
