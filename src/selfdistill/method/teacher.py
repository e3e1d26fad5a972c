"""The teacher: the student's module with other values in its trainable parameters.

One module plays both roles. During the teacher's forward pass its tensors replace the student's by reference: nothing
is copied, and weights that are not trained (the base model under LoRA) exist once.

=======  ==============================================================================================
frozen   the weights that were in memory when training began, not those that the model's name refers to
ema      teacher <- rate * student + (1 - rate) * teacher, in fp32 whatever dtype the model computes in
live     the student itself
=======  ==============================================================================================

Under LoRA the average is taken of the factors A and B, starting from a copy of the student's. The product of two
averages is not the average of the products, but both start at the same adapter and move slowly, so the difference is of
second order in the distance between student and teacher.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from selfdistill.method.master_weights import MasterWeights
from selfdistill.types import TeacherKind


class Teacher:
    """Weights of a teacher for one student.

    Args:
        masters: the student's trainable parameters with their fp32 masters.
        kind: ``frozen``, ``ema`` or ``live``.
        update_rate: share of the student in an ema update, in [0, 1].
        sync_steps: number of optimizer steps between two ema updates.
    """

    def __init__(
        self, masters: MasterWeights, kind: TeacherKind, update_rate: float = 0.02, sync_steps: int = 1
    ) -> None:
        self.kind = kind
        self.update_rate = update_rate
        self.sync_steps = sync_steps
        self._student = masters
        self._weights: dict[str, Tensor] = {}  # in the dtype that the model computes in
        self._average: dict[str, Tensor] = {}  # fp32; the same tensors as in _weights if those are fp32
        if kind == "live":
            return
        for name, parameter, master in masters.items():
            self._weights[name] = parameter.detach().clone()
            if kind == "ema":
                same = parameter.dtype == torch.float32
                self._average[name] = self._weights[name] if same else master.detach().clone()

    @torch.no_grad()
    def restart(self) -> None:
        """Sets the teacher to the student's current weights."""
        for name, parameter, master in self._student.items():
            if name in self._weights:
                self._weights[name].copy_(parameter)
            if name in self._average:
                self._average[name].copy_(master)

    @contextmanager
    def active(self) -> Generator[None]:
        """Context in which the student's module has the teacher's weights. No backward pass may be pending."""
        if self.kind == "live":
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._student.parameters.items():
            parameter.data, self._weights[name] = self._weights[name], parameter.data

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves an ema teacher towards the student. Call it after every optimizer step, with its number (from 1)."""
        if self.kind != "ema" or step % self.sync_steps:
            return
        for name, _, master in self._student.items():
            average = self._average[name]
            average.lerp_(master.detach(), self.update_rate)
            if self._weights[name] is not average:
                self._weights[name].copy_(average)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the teacher's weights by parameter name, the fp32 average for ema; empty for a live teacher."""
        return dict(self._average or self._weights)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores ``state_dict()``.

        Raises:
            ValueError: ``state`` has other parameter names than this teacher.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            odd = min(own.keys() ^ state.keys())
            raise ValueError(f"teacher weights do not fit the model: {odd!r} is on one side only")
        for name, tensor in own.items():
            tensor.copy_(state[name])
            if self._weights[name] is not tensor:
                self._weights[name].copy_(tensor)
