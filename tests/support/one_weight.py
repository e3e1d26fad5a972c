"""A model of a single vector, its student's and its teacher's values."""

import torch
from torch import nn

from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.teacher import Teacher


class One(nn.Module):
    """A single trainable vector."""

    def __init__(self, values: list[float], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=dtype))


def set_student(masters: MasterWeights, *values: float) -> None:
    masters.set_value("w", torch.tensor(values))


def seen(teacher: Teacher, module: One) -> list[float]:
    """The weights that the module computes with while the teacher is active."""
    with teacher.active():
        return module.w.tolist()
