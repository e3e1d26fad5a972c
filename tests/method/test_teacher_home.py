"""A teacher that is kept on the host is the one that is kept on the device."""

from contextlib import nullcontext

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


class Stream:
    """A CUDA stream that computes when it is waited for."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def wait_stream(self, other):
        self.said.append(f"waits for {other}")

    def synchronize(self):
        self.said.append("synchronized")


@pytest.fixture
def streams(monkeypatch):
    """The side stream, and what the current one is told."""
    side, current = Stream(), Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(side.said.append("entered")))
    return side, current


def test_on_cuda_an_update_goes_on_beside_the_student_until_someone_needs_it(streams):
    side, current = streams
    module = One([0.0])
    masters = MasterWeights(module)
    teacher = Teacher(masters, "ema", update_rate=0.5, home="host")
    teacher._stream = side
    set_student(masters, 4.0)
    teacher.update(1)
    assert side.said == [f"waits for {current}", "entered"]  # the optimizer's step is queued before it
    assert current.said == []
    assert seen(teacher, module) == [2.0]
    assert current.said == [f"waits for {side}"]  # the upload is queued after the update
    assert "synchronized" not in side.said
    teacher.state_dict()
    assert side.said[-1] == "synchronized"  # the host reads it


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_average_that_takes_several_pieces(dtype, monkeypatch):
    monkeypatch.setattr("selfdistill.method.master_weights.PIECE_ELEMENTS", 4)
    monkeypatch.setattr("selfdistill.method.teacher.PIECE_ELEMENTS", 4)
    module = torch.nn.Linear(5, 3, dtype=dtype)  # 15 weights: four pieces, the last one smaller
    module.weight.data = module.weight.data.T.contiguous().T  # as a loaded model may have them
    masters = MasterWeights(module)
    here, there = (Teacher(masters, "ema", update_rate=0.3, home=home) for home in ("device", "host"))
    for step in range(1, 4):
        masters.set_value("weight", torch.randn(3, 5))
        here.update(step)
        there.update(step)
        assert torch.equal(there.state_dict()["weight"], here.state_dict()["weight"])
    assert not torch.equal(there.state_dict()["weight"], masters.value("weight"))
