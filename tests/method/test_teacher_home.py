"""A teacher that is kept on the host is the one that is kept on the device."""

from threading import Event, Timer

import pytest
import torch

from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.teacher import Teacher
from tests.support.one_weight import One, seen, set_student


@pytest.mark.parametrize("kind", ["frozen", "ema"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_the_host_it_is_the_same_to_the_bit(kind, dtype):
    module = One([0.3, -8.7, 1e-5], dtype)
    masters = MasterWeights(module)
    here, there = (Teacher(masters, kind, update_rate=0.01, home=home) for home in ("device", "host"))
    for step in range(1, 20):
        set_student(masters, *(torch.randn(3) * step).tolist())
        for teacher in (here, there):
            teacher.update(step)
            teacher.wait()
        assert seen(there, module) == seen(here, module)
        assert torch.equal(there.state_dict()["w"], here.state_dict()["w"])
    there.restart()
    assert seen(there, module) == module.w.tolist()


def test_whoever_asks_for_it_waits_for_its_update():
    module = One([0.0])
    masters = MasterWeights(module)
    teacher = Teacher(masters, "ema", update_rate=0.5, home="host")
    set_student(masters, 4.0)
    value, gate = masters.value, Event()

    def slow(name):
        gate.wait(10)
        return value(name)

    masters.value = slow
    for ask in (lambda: seen(teacher, module)[0], lambda: teacher.state_dict()["w"].item()):
        gate.clear()
        teacher.update(1)
        Timer(0.1, gate.set).start()
        found = ask()
    assert found == 3.0  # 0, 2, 3


def test_an_update_that_fails_is_not_forgotten():
    masters = MasterWeights(One([0.0]))
    teacher = Teacher(masters, "ema", home="host")

    def fails(name):
        raise MemoryError(name)

    masters.value = fails
    teacher.update(1)
    with pytest.raises(MemoryError), teacher.active():
        pass
