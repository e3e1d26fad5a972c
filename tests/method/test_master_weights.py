"""fp32 masters of bf16 parameters: small updates count, gradients add up in fp32, and nothing is lost on the way."""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfdistill.method import master_weights
from selfdistill.method.master_weights import MasterWeights
from tests.support.one_weight import One


def one(values: list[float], dtype: torch.dtype = torch.bfloat16) -> One:
    return One(values, dtype)


def push(module: One, *gradient: float) -> None:
    """A backward pass whose gradient to ``w`` is ``gradient``."""
    (module.w * torch.tensor(gradient, dtype=module.w.dtype)).sum().backward()


def optimizer(masters: MasterWeights, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([master for _, _, master in masters.items()], lr=lr)


def test_thousand_small_updates_move_the_master_and_not_bf16_alone() -> None:
    module, alone = one([1.0]), one([1.0])
    masters = MasterWeights(module)
    step, step_alone = optimizer(masters, 1e-4), torch.optim.SGD(alone.parameters(), lr=1e-4)
    for _ in range(1000):
        with masters.attached():
            push(module, -1.0)
            masters.update(step.step)
        alone.zero_grad()
        push(alone, -1.0)
        step_alone.step()
    assert alone.w.item() == 1.0  # 1.0001 rounds back to 1: the next bf16 number is 1.0078
    assert masters.value("w").item() == pytest.approx(1.1, abs=1e-4)
    assert module.w.dtype == torch.bfloat16
    assert module.w.item() == 1.1015625  # 141/128, the bf16 number next to 1.1


def test_gradients_add_up_in_fp32_and_leave_the_parameter() -> None:
    module = one([1.0])
    masters = MasterWeights(module)
    with masters.attached():
        push(module, 256.0)
        push(module, 1.0)  # bf16 has no 257: it would stay at 256
        master = masters.masters["w"]
        assert master.grad is not None
        assert master.grad.dtype == torch.float32
        assert master.grad.item() == 257.0
        assert module.w.grad is None


def test_an_update_rounds_and_clears() -> None:
    module = one([1.0, 2.0])
    masters = MasterWeights(module)
    with masters.attached():
        push(module, -0.003, -0.5)
        masters.update(optimizer(masters, 1.0).step)
        assert masters.masters["w"].grad is None
    assert module.w.tolist() == [1.0, 2.5]  # 1.003 is nearer to 1 than to 1.0078
    assert masters.value("w").tolist() == pytest.approx(
        [1.003, 2.5], abs=1e-5
    )  # the master keeps what was rounded away


# -- sixteen bits more ---------------------------------------------------------------------------------------


def test_every_number_is_kept_to_the_bit_and_rounded_to_the_nearest() -> None:
    """All exponents, both signs, every kind of lower half: those next to the middle, the middle itself, infinity."""
    upper = torch.arange(-(2**15), 2**15, 7, dtype=torch.int32)
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    values = (upper[:, None] * 2**16 + lower).flatten().view(torch.float32)
    values = torch.cat([values[values.isfinite()], torch.tensor([torch.inf, -torch.inf, 0.0, -0.0])])
    module = one([0.0] * len(values))
    masters = MasterWeights(module)
    masters.set_value("w", values)
    assert torch.equal(masters.value("w").view(torch.int32), values.view(torch.int32))
    middle = values.view(torch.int32) & 0xFFFF == 0x8000
    assert torch.equal(module.w[~middle], values[~middle].to(torch.bfloat16))
    assert (module.w[middle].double().abs() >= values[middle].double().abs()).all()  # away from zero


@pytest.mark.parametrize("at_once", [False, True])
def test_a_hundred_steps_of_adamw_are_those_on_fp32_masters(monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    monkeypatch.setattr(master_weights, "PIECE_ELEMENTS", 100)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)).to(torch.bfloat16)
    masters = MasterWeights(module)
    plain = {name: nn.Parameter(p.detach().float()) for name, p in module.named_parameters()}
    ours = torch.optim.AdamW([master for _, _, master in masters.items()], lr=1e-3)
    theirs = torch.optim.AdamW(plain.values(), lr=1e-3)
    for _ in range(100):
        for name, parameter in plain.items():
            parameter.grad = torch.randn_like(parameter)
            masters.masters[name].grad = parameter.grad.clone()
        masters.update(ours.step, at_once=at_once)
        theirs.step()
    for name, parameter in plain.items():
        assert torch.equal(masters.value(name), parameter.detach())
        assert (module.get_parameter(name).float() - parameter).abs().max() < parameter.abs().max() / 256
    assert {int(state["step"]) for state in ours.state.values()} == {100}


def test_a_master_costs_two_bytes_and_is_whole_only_in_an_update() -> None:
    module = one([1.0] * 64)
    masters = MasterWeights(module)
    (master,) = masters.masters.values()
    assert masters.state_dict()["w"].dtype == torch.int16
    assert (master.shape, master.dtype) == (module.w.shape, torch.float32)
    assert master.untyped_storage().nbytes() == 4  # one number stands for all 64
    sizes: list[int] = []
    master.grad = torch.ones(64)
    masters.update(lambda: sizes.append(master.untyped_storage().nbytes()))
    assert sizes == [4 * 64]
    assert master.untyped_storage().nbytes() == 4
    with pytest.raises(RuntimeError), torch.no_grad():  # an optimizer that steps outside of update
        master.add_(1.0)


def test_an_optimizer_that_fails_leaves_masters_as_they_are() -> None:
    module = one([1.0, 2.0])
    masters = MasterWeights(module)
    masters.set_value("w", torch.tensor([1.003, 2.5]))

    def fails() -> None:
        raise KeyError

    masters.masters["w"].grad = torch.ones(2)
    with pytest.raises(KeyError):
        masters.update(fails)
    assert masters.value("w").tolist() == pytest.approx([1.003, 2.5])
    assert masters.masters["w"].grad is None


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match="w is float16"):
        MasterWeights(one([1.0], torch.float16))


def test_fp32_parameter_is_its_own_master() -> None:
    module = one([1.0], torch.float32)
    masters = MasterWeights(module)
    assert masters.masters["w"] is module.w
    assert masters.state_dict() == {}
    push(module, 3.0)
    masters.update(optimizer(masters, 0.5).step)
    assert module.w.grad is None
    assert module.w.item() == -0.5
    masters.load_state_dict({})
    assert masters.value("w").item() == -0.5


def test_untrained_parameters_have_no_master() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).to(torch.bfloat16)
    module[0].requires_grad_(False)
    assert [name for name, _, _ in MasterWeights(module).items()] == ["1.weight", "1.bias"]


def test_state_round_trip_restores_the_master() -> None:
    first, second = one([1.0, 2.0]), one([0.0, 0.0])
    masters, others = MasterWeights(first), MasterWeights(second)
    masters.set_value("w", torch.tensor([1.003, 2.5]))
    master = others.masters["w"]
    second.load_state_dict(first.state_dict())  # as a checkpoint's model is loaded, first
    others.load_state_dict({name: low.clone() for name, low in masters.state_dict().items()})
    assert others.masters["w"] is master  # an optimizer that holds it goes on with it
    assert torch.equal(others.value("w"), torch.tensor([1.003, 2.5]))
    assert second.w.tolist() == [1.0, 2.5]
    others.refresh()
    assert torch.equal(others.value("w"), torch.tensor([1.003, 2.5]))


@pytest.mark.parametrize("names", [[], ["w", "v"], ["v"]], ids=str)
def test_state_of_another_model_is_refused(names: list[str]) -> None:
    masters = MasterWeights(one([1.0]))
    with pytest.raises(ValueError, match=r"do not fit the model: '[vw]' is on one side only"):
        masters.load_state_dict({name: torch.zeros(1, dtype=torch.int16) for name in names})


def test_whole_masters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'w' is torch\.float32, not int16"):
        MasterWeights(one([1.0])).load_state_dict({"w": torch.zeros(1)})


# -- from when to when the masters take the gradients ----------------------------------------------------


@pytest.mark.parametrize("attached_before", [False, True])
def test_outside_of_training_gradients_are_the_parameters(attached_before: bool) -> None:
    module = one([1.0])
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
    module = one([1.0], dtype)
    masters = MasterWeights(module)
    push(module, 3.0)
    with masters.attached():
        push(module, 2.0)
        assert masters.masters["w"].grad is not None
        assert masters.masters["w"].grad.item() == 2.0
    assert masters.masters["w"].grad is None
    assert module.w.grad is None


def test_two_masters_of_one_module_take_turns() -> None:
    module = one([1.0])
    first, second = MasterWeights(module), MasterWeights(module)
    for mine, other in ((first, second), (second, first)):
        with mine.attached():
            push(module, 2.0)
            assert mine.masters["w"].grad is not None
            assert mine.masters["w"].grad.item() == 2.0
            assert other.masters["w"].grad is None


def test_weights_that_came_from_outside_are_taken_over() -> None:
    """A master keeps what was rounded away, unless its parameter was written to by somebody else."""
    module = one([1.0, 2.0])
    masters = MasterWeights(module)
    masters.set_value("w", torch.tensor([1.003, 2.001]))
    masters.refresh()
    assert masters.value("w").tolist() == pytest.approx([1.003, 2.001])
    with torch.no_grad():
        module.w.copy_(torch.tensor([1.0, 4.0]))
    masters.refresh()
    assert masters.value("w").tolist() == [1.0, 4.0]


def test_nothing_trainable_is_refused() -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        MasterWeights(one([1.0]).requires_grad_(False))


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
            masters.update(optimizer(masters, 0.1).step)
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
    torch.testing.assert_close(head.float(), masters.value(name), rtol=2**-8, atol=0)


def _cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()
