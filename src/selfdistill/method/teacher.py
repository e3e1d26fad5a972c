"""The teacher: the student's module with other values in its trainable parameters.

One module plays both roles. During the teacher's forward pass its tensors replace the student's by reference, and
weights that are not trained (the base model under LoRA) exist once. Where the student is split over processes
(``sharded``) the teacher is, too, and the contents of their slices are exchanged.

=======  ==============================================================================================
frozen   the weights that were in memory when training began, not those that the model's name refers to; or those of
         the last restart, of which there is one every ``restart_steps``
ema      teacher <- rate * student + (1 - rate) * teacher, in fp32 whatever dtype the model computes in
live     the student itself
=======  ==============================================================================================

The fp32 average is all that an ema teacher keeps: its weights in the dtype to compute in are made when it is used. With
``home="host"`` a teacher is kept in the host's memory and uploaded when it is used; to be updated, the average passes
through the device piece by piece, on CUDA beside the next rollout. The numbers are the same.

Under LoRA the average is taken of the factors A and B, starting from a copy of the student's. The product of two
averages is not the average of the products, but both start at the same adapter and move slowly, so the difference is of
second order in the distance between student and teacher.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from selfdistill.method.master_weights import PIECE_ELEMENTS, MasterWeights
from selfdistill.method.sharded import Sharding, Whole
from selfdistill.method.slices import local, split_as
from selfdistill.types import TeacherHome, TeacherKind


class Teacher:
    """Weights of a teacher for one student.

    Args:
        masters: the student's trainable parameters with their fp32 masters.
        kind: ``frozen``, ``ema`` or ``live``.
        update_rate: share of the student in an ema update, in [0, 1].
        sync_steps: number of optimizer steps between two ema updates.
        home: where the weights are kept: on the student's ``device`` or on the ``host``.
        restart_steps: number of optimizer steps after which a frozen teacher becomes a copy of the student; None for
            one that stays.
        sharding: where the student's weights are; if they are split, ``home`` is the device.
    """

    def __init__(
        self,
        masters: MasterWeights,
        kind: TeacherKind,
        update_rate: float = 0.02,
        sync_steps: int = 1,
        home: TeacherHome = "device",
        restart_steps: int | None = None,
        sharding: Sharding | None = None,
    ) -> None:
        self.kind, self.home = kind, home
        self.update_rate = update_rate
        self.sync_steps, self.restart_steps = sync_steps, restart_steps
        self._student, self._sharding = masters, sharding or Whole()
        self._kept: dict[str, Tensor] = {}  # ema: the fp32 average; frozen: in the dtype that the model computes in
        self._device = next(iter(masters.parameters.values())).device
        self._stream: Any = None  # CUDA: where a teacher on the host is updated, beside what the student does
        if kind != "live":
            for name in masters.parameters:
                self._kept[name] = self._at_home(self._of_student(name))
            if home == "host" and self._device.type == "cuda":
                self._stream = torch.cuda.Stream(self._device)

    @property
    def stays(self) -> bool:
        """Whether it keeps the weights that it began with."""
        return self.kind == "frozen" and self.restart_steps is None

    @torch.no_grad()
    def restart(self) -> None:
        """Sets the teacher to the student's current weights."""
        self._finish()
        for name, kept in self._kept.items():
            local(kept).copy_(local(self._of_student(name)))

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yields the weights by parameter name, on the student's device in the dtype that it computes in; none
        for a live teacher."""
        self.wait()
        for name, kept in self._kept.items():
            parameter = self._student.parameters[name]
            yield name, kept.to(parameter.device, non_blocking=True).to(parameter.dtype)

    @contextmanager
    def active(self, weights: Mapping[str, Tensor] | None = None) -> Generator[None]:
        """Context in which the student's module has the teacher's weights. No backward pass may be pending.

        ``weights``: those of ``weights()``, for whoever enters the context often; by default they are made here.
        """
        if self._sharding.is_split:
            self._exchange()
            try:
                yield
            finally:
                self._exchange()
            return
        students: dict[str, Tensor] = {}
        try:
            for name, data in self.weights() if weights is None else weights.items():
                parameter = self._student.parameters[name]
                students[name] = parameter.data
                parameter.data = data
            yield
        finally:
            for name, data in students.items():
                self._student.parameters[name].data = data

    @torch.no_grad()
    def _exchange(self) -> None:
        """Exchanges the contents of the teacher's slices with those of the student's."""
        self._sharding.release()  # what was gathered is the other's
        for name, kept in self._kept.items():
            students, teachers = local(self._student.parameters[name]), local(kept)
            held = students.clone()
            students.copy_(teachers)
            teachers.copy_(held)

    def update(self, step: int) -> None:
        """Moves an ema teacher towards the student, or restarts a frozen one if it is time. Call it after every
        optimizer step, with its number (from 1).

        On the host of a GPU this goes on beside what follows: ``wait`` must be called before the student changes again.
        """
        if self.kind == "frozen" and self.restart_steps is not None and step % self.restart_steps == 0:
            self.restart()
        if self.kind != "ema" or step % self.sync_steps:
            return
        if self._stream is None:
            self._average()
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._average()

    def wait(self) -> None:
        """Lets what the device computes next wait until an update is done."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def _finish(self) -> None:
        """Waits until what is kept on the host may be read there."""
        if self._stream is not None:
            self._stream.synchronize()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the teacher's weights by parameter name, the fp32 average for ema, split as the student's are; empty
        for a live teacher."""
        self._finish()
        return dict(self._kept)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over whole weights by parameter name.

        Raises:
            ValueError: ``state`` has other parameter names than this teacher.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            odd = min(own.keys() ^ state.keys())
            raise ValueError(f"teacher weights do not fit the model: {odd!r} is on one side only")
        for name, tensor in own.items():
            local(tensor).copy_(local(split_as(tensor, state[name])))

    @torch.no_grad()
    def _average(self) -> None:
        """Moves the fp32 average towards the student. On CUDA nothing here waits for the device."""
        beside = self._stream is not None
        for name, average in self._kept.items():
            if self.home == "device":
                local(average).lerp_(local(self._student.value(name)), self.update_rate)
                continue
            pieces = average.view(-1).split(PIECE_ELEMENTS)
            for kept, student in zip(pieces, self._student.value_in_pieces(name), strict=True):
                moved = kept.to(student.device, non_blocking=beside)
                kept.copy_(moved.lerp_(student, self.update_rate), non_blocking=beside)

    def _of_student(self, name: str) -> Tensor:
        """The student's weights as this teacher keeps them."""
        return self._student.value(name) if self.kind == "ema" else self._student.parameters[name].detach()

    def _at_home(self, weights: Tensor) -> Tensor:
        """A copy of ``weights`` where the teacher is kept; on the host in pinned memory, for fast uploads."""
        if self.home == "device":
            return weights.clone()
        copied = weights.contiguous().to("cpu", copy=True)
        return copied.pin_memory() if weights.is_cuda else copied
