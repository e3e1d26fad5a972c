"""The teacher: the student's own module with other numbers in its trainable parameters.

One module plays both roles, as in the method. The teacher's tensors are swapped in by reference
for the time of a forward pass, so nothing is computed or copied for it, and whatever is not trained
(the base model under LoRA) exists once.

=======  ==================================================================================
frozen   the weights as they were in memory when training began, never those of a model's name
ema      teacher <- rate * student + (1 - rate) * teacher, kept in fp32 whatever is computed in
live     the student itself
=======  ==================================================================================

Under LoRA the moving average is taken of the factors A and B, from a copy of the student's own. The
product of two averages is not the average of the products; both start at the same adapter and move
slowly, so the difference stays of second order in the distance travelled.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from selfdistill.method.master_weights import MasterWeights
from selfdistill.types import TeacherKind


class Teacher:
    """Teacher weights for one student.

    Args:
        masters: the student's trainable parameters and their fp32 masters.
        kind: ``frozen``, ``ema`` or ``live``.
        update_rate: share of the student that enters at an update, in [0, 1].
        sync_steps: optimizer steps between two updates.
    """

    def __init__(
        self, masters: MasterWeights, kind: TeacherKind, update_rate: float = 0.02, sync_steps: int = 1
    ) -> None:
        self.kind = kind
        self.update_rate = update_rate
        self.sync_steps = sync_steps
        self._student = masters
        self._weights: dict[str, Tensor] = {}  # in the dtype that is computed in
        self._average: dict[str, Tensor] = {}  # fp32; the same tensors as _weights where that is fp32
        if kind == "live":
            return
        for name, parameter, master in masters.items():
            self._weights[name] = parameter.detach().clone()
            if kind == "ema":
                same = parameter.dtype == torch.float32
                self._average[name] = self._weights[name] if same else master.detach().clone()

    @torch.no_grad()
    def restart(self) -> None:
        """Begins again at the student's weights as they are now."""
        for name, parameter, master in self._student.items():
            if name in self._weights:
                self._weights[name].copy_(parameter)
            if name in self._average:
                self._average[name].copy_(master)

    @contextmanager
    def active(self) -> Generator[None]:
        """Inside, the student's module computes with the teacher's weights. No gradient may be pending."""
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
        """Moves an ema teacher towards the student; call it after optimizer step number ``step`` (from 1)."""
        if self.kind != "ema" or step % self.sync_steps:
            return
        for name, _, master in self._student.items():
            average = self._average[name]
            average.lerp_(master.detach(), self.update_rate)
            if self._weights[name] is not average:
                self._weights[name].copy_(average)

    def state_dict(self) -> dict[str, Tensor]:
        """The teacher's weights at full precision by parameter name; empty for a live teacher."""
        return dict(self._average or self._weights)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores ``state_dict()``.

        Raises:
            ValueError: ``state`` holds other names than this teacher's.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            odd = min(own.keys() ^ state.keys())
            raise ValueError(f"teacher weights do not fit the model: {odd!r} is on one side only")
        for name, tensor in own.items():
            tensor.copy_(state[name])
            if self._weights[name] is not tensor:
                self._weights[name].copy_(tensor)
