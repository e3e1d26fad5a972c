"""The teacher: which weights it has when, and that using it leaves no trace on the student."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.teacher import Teacher
from tests.support.one_weight import One, seen, set_student

IDS = torch.tensor([[3, 4, 5, 6]])


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS).logits


@torch.no_grad()
def teacher_logits(teacher: Teacher, model: nn.Module) -> Tensor:
    with teacher.active():
        return logits(model)


# -- numbers by hand -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_by_hand(dtype):
    module = One([0.0, 8.0], dtype)
    masters = MasterWeights(module)
    teacher = Teacher(masters, "ema", update_rate=0.25)
    set_student(masters, 4.0, 8.0)
    assert seen(teacher, module) == [0.0, 8.0]
    teacher.update(1)
    assert seen(teacher, module) == [1.0, 8.0]  # 1/4 * 4 + 3/4 * 0
    teacher.update(2)
    assert seen(teacher, module) == [1.75, 8.0]  # 1/4 * 4 + 3/4 * 1
    set_student(masters, -1.25, 0.0)
    teacher.update(3)
    assert seen(teacher, module) == [1.0, 6.0]  # 1/4 * -1.25 + 3/4 * 1.75
    assert module.w.tolist() == [-1.25, 0.0]


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 1.0), (1.0, 5.0)])
def test_rates_at_the_ends(rate, expected):
    module = One([1.0])
    masters = MasterWeights(module)
    teacher = Teacher(masters, "ema", update_rate=rate)
    set_student(masters, 5.0)
    teacher.update(1)
    assert seen(teacher, module) == [expected]


@pytest.mark.parametrize("home", ["device", "host"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_teacher_restarts_by_hand(dtype, home):
    module = One([0.0], dtype)
    masters = MasterWeights(module)
    teacher = Teacher(masters, "frozen", home=home, restart_steps=2)
    found = []
    for step in range(1, 6):
        set_student(masters, float(step))
        teacher.update(step)
        found += seen(teacher, module)
    assert found == [0.0, 2.0, 2.0, 4.0, 4.0]
    assert module.w.tolist() == [5.0]


def test_sync_steps_by_hand():
    module = One([0.0])
    masters = MasterWeights(module)
    teacher = Teacher(masters, "ema", update_rate=0.5, sync_steps=3)
    set_student(masters, 8.0)
    history = []
    for step in range(1, 8):
        teacher.update(step)
        history += seen(teacher, module)
    assert history == [0, 0, 4, 4, 4, 6, 6]  # moves after steps 3 and 6


def test_frozen_teacher_stays():
    module = One([1.0, 2.0])
    masters = MasterWeights(module)
    teacher = Teacher(masters, "frozen", update_rate=0.5)
    set_student(masters, 5.0, 6.0)
    for step in range(1, 4):
        teacher.update(step)
    assert seen(teacher, module) == [1.0, 2.0]
    assert module.w.tolist() == [5.0, 6.0]


def test_live_teacher_is_the_student():
    module = One([1.0])
    masters = MasterWeights(module)
    teacher = Teacher(masters, "live")
    set_student(masters, 5.0)
    teacher.update(1)
    assert seen(teacher, module) == [5.0]
    assert teacher.state_dict() == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["frozen", "ema"])
def test_restart_begins_again_at_the_student_as_it_is(kind, dtype):
    module = One([1.0], dtype)
    masters = MasterWeights(module)
    teacher = Teacher(masters, kind, update_rate=0.5)
    set_student(masters, 3.0)
    teacher.update(1)
    teacher.restart()
    assert seen(teacher, module) == [3.0]
    set_student(masters, 5.0)
    teacher.update(2)
    assert seen(teacher, module) == {"frozen": [3.0], "ema": [4.0]}[kind]
    assert module.w.tolist() == [5.0]


# -- bf16: the average must move -------------------------------------------------------------------


def test_bf16_average_moves_where_one_kept_in_bf16_would_not():
    module = One([1.0], torch.bfloat16)
    masters = MasterWeights(module)
    teacher = Teacher(masters, "ema", update_rate=0.01)
    set_student(masters, 1.25)
    rounded = torch.ones(1, dtype=torch.bfloat16)
    for step in range(1, 251):
        teacher.update(step)
        rounded.lerp_(module.w.detach(), 0.01)
    assert rounded.item() == 1.0  # 1.0025 rounds back to 1: the next bf16 number is 1.0078
    # 1 + 0.25 (1 - 0.99^250) = 1.2297; the bf16 number next to it is 157/128
    assert teacher.state_dict()["w"].item() == pytest.approx(1 + 0.25 * (1 - 0.99**250))
    assert seen(teacher, module) == [157 / 128]


def test_average_follows_the_master_and_not_its_rounded_copy():
    module = One([1.0], torch.bfloat16)
    masters = MasterWeights(module)
    teacher = Teacher(masters, "ema", update_rate=0.5)
    set_student(masters, 1.003)
    assert module.w.item() == 1.0  # 1.003 is nearer to 1 than to 1.0078
    teacher.update(1)
    assert teacher.state_dict()["w"].item() == pytest.approx(1.0015)


def test_bf16_training_closes_the_gap():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2000, generator=generator) * 0.02
    direction = torch.randn(2000, generator=generator).sign()
    module = One([0.0] * 2000, torch.bfloat16)
    masters = MasterWeights(module)
    set_student(masters, *start.tolist())
    teacher = Teacher(masters, "ema", update_rate=0.01)
    begin = teacher.state_dict()["w"].clone()
    optimizer = torch.optim.SGD([master for _, _, master in masters.items()], lr=2e-4)
    rounded = module.w.detach().clone()
    for step in range(1, 251):
        if step <= 5:  # the student moves by 0.001 in five steps and then stands
            with masters.attached():
                (module.w * direction.to(torch.bfloat16)).sum().backward()
                masters.update(optimizer.step)
        teacher.update(step)
        rounded.lerp_(module.w.detach(), 0.01)
    gap = (masters.value("w") - begin).abs().sum()

    def closed(average: Tensor) -> float:
        return 1 - ((masters.value("w") - average.float()).abs().sum() / gap).item()

    assert closed(teacher.state_dict()["w"]) == pytest.approx(0.92, abs=0.01)  # 1 - 0.99^250 = 0.919
    assert closed(rounded) < 0.25
    with teacher.active():
        assert closed(module.w.detach()) > 0.9


# -- the swap --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["frozen", "ema", "live"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_student_is_restored_exactly_also_after_an_error(kind, dtype):
    module = One([1.0], dtype)
    masters = MasterWeights(module)
    teacher = Teacher(masters, kind, update_rate=0.5)
    set_student(masters, 3.0)
    parameter, place = module.w, module.w.data_ptr()
    with pytest.raises(KeyError), teacher.active():
        raise KeyError
    for step in (1, 2):
        teacher.update(step)
        with teacher.active():
            assert (module.w.data_ptr() == place) == (kind == "live")
        assert module.w is parameter
        assert module.w.data_ptr() == place
        assert module.w.tolist() == [3.0]
    assert seen(teacher, module) == {"frozen": [1.0], "ema": [2.5], "live": [3.0]}[kind]


def test_student_learns_on_after_a_swap():
    module = One([1.0])
    masters = MasterWeights(module)
    teacher = Teacher(masters, "frozen")
    optimizer = torch.optim.SGD([master for _, _, master in masters.items()], lr=0.5)
    for _ in range(2):
        with torch.no_grad(), teacher.active():
            target = 2 * module.w
        (module.w * 2 - target.detach() + 2 * module.w).sum().backward()  # gradient 4
        masters.update(optimizer.step)
    assert module.w.tolist() == [1.0 - 2 * 0.5 * 4]
    assert seen(teacher, module) == [1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_whole_model(tiny_model, dtype, tied):
    model = tiny_model("llama", dtype=dtype, tie_word_embeddings=tied)
    masters = MasterWeights(model)
    start = logits(model)
    teachers = {kind: Teacher(masters, kind, update_rate=1.0) for kind in ("frozen", "ema")}
    for name in masters.parameters:
        value = masters.value(name)
        masters.set_value(name, value + torch.randn_like(value) * 0.3)
    moved = logits(model)
    assert (moved - start).abs().max() > 0.1
    assert torch.equal(teacher_logits(teachers["ema"], model), start)
    teachers["ema"].update(1)
    assert torch.equal(teacher_logits(teachers["ema"], model), moved)
    assert torch.equal(teacher_logits(teachers["frozen"], model), start)
    assert torch.equal(logits(model), moved)


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["frozen", "ema"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_round_trip_goes_on_as_if_never_stopped(kind, dtype):
    def run(start: float) -> tuple[One, MasterWeights, Teacher]:
        module = One([start], dtype)
        masters = MasterWeights(module)
        return module, masters, Teacher(masters, kind, update_rate=0.01)

    module, masters, teacher = run(1.0)
    set_student(masters, 1.5)
    teacher.update(1)
    state = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    resumed_module, resumed_masters, resumed = run(9.0)  # a resumed run is made from other weights
    set_student(resumed_masters, 1.5)
    resumed.load_state_dict(state)
    assert seen(resumed, resumed_module) == seen(teacher, module)
    for step in range(2, 100):
        teacher.update(step)
        resumed.update(step)
    assert torch.equal(resumed.state_dict()["w"], teacher.state_dict()["w"])
    assert seen(resumed, resumed_module) == seen(teacher, module)
    assert resumed_module.w.tolist() == [1.5]


@pytest.mark.parametrize("names", [[], ["w", "v"]], ids=str)
def test_state_of_another_model_is_refused(names):
    teacher = Teacher(MasterWeights(One([1.0])), "ema")
    with pytest.raises(ValueError, match=r"do not fit the model: '[vw]' is on one side only"):
        teacher.load_state_dict({name: torch.zeros(1) for name in names})


# -- LoRA ------------------------------------------------------------------------------------------


def adapted(tiny_model, dtype: torch.dtype = torch.float32) -> PeftModel:
    """A student whose adapter has done some learning: B is not zero."""
    model = tiny_model("llama", dtype=dtype)
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, config, autocast_adapter_dtype=True).eval()


def move(masters: MasterWeights) -> None:
    """A step of the student."""
    torch.manual_seed(2)
    for name in masters.parameters:
        value = masters.value(name)
        masters.set_value(name, value + torch.randn_like(value) * 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["frozen", "ema"])
def test_lora_teacher_starts_as_a_copy_of_the_students_adapter(tiny_model, kind, dtype):
    model = adapted(tiny_model, dtype)
    masters = MasterWeights(model)
    start = logits(model)
    teacher = Teacher(masters, kind)
    state = teacher.state_dict()
    assert state
    assert all(".lora_" in name for name in state)
    assert all(tensor.abs().max() > 0 for name, tensor in state.items() if ".lora_B." in name)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    for name, tensor in state.items():
        assert torch.equal(tensor, model.get_parameter(name))
        assert tensor.data_ptr() != model.get_parameter(name).data_ptr()
    move(masters)
    assert not torch.allclose(logits(model), start, atol=0.05)
    assert torch.equal(teacher_logits(teacher, model), start)


def test_lora_teacher_shares_the_base_weights(tiny_model):
    model = adapted(tiny_model)
    base = {name: p for name, p in model.named_parameters() if "lora_" not in name}
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in base.items()}
    masters = MasterWeights(model)
    teacher = Teacher(masters, "ema", update_rate=0.5)
    move(masters)
    teacher.update(1)
    with teacher.active():
        assert {name: p.data_ptr() for name, p in base.items()} == {name: place for name, (place, _) in before.items()}
    assert all(torch.equal(p, before[name][1]) for name, p in base.items())
    assert sum(t.numel() for t in teacher.state_dict().values()) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


def test_lora_average_is_of_the_factors(tiny_model):
    model = adapted(tiny_model)
    masters = MasterWeights(model)
    teacher = Teacher(masters, "ema", update_rate=0.25)
    start = {name: p.detach().clone() for name, p, _ in masters.items()}
    move(masters)
    student = {name: p.detach().clone() for name, p, _ in masters.items()}
    teacher.update(1)
    with teacher.active():
        seen = {name: p.detach().clone() for name, p, _ in masters.items()}
    for name, value in seen.items():
        torch.testing.assert_close(value, 0.25 * student[name] + 0.75 * start[name])


def test_frozen_fresh_lora_is_the_adapter_switched_off(tiny_model):
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules="all-linear")).eval()
    masters = MasterWeights(model)
    teacher = Teacher(masters, "frozen")
    move(masters)
    with model.disable_adapter():
        off = logits(model)
    assert (logits(model) - off).abs().max() > 0.1
    torch.testing.assert_close(teacher_logits(teacher, model), off)
