"""fp32 masters of trainable weights, for models that compute in bf16.

A bf16 weight has 8 bits of precision, so an update below 1/256 of it can be lost to rounding. Therefore the optimizer
updates fp32 masters, gradients of micro-batches are summed in fp32, and the model computes with rounded copies.

A master costs two bytes, not four: its upper 16 bits, rounded, are the model's own weight, and the lower 16 bits are
kept beside it::

    bits of the master = 65536 * (bits of the weight) + low,    low in [-32768, 32767]

The sum is exact. The weight is the bf16 number nearest to the master; halfway between two it is the one further from
zero (bf16 rounding usually takes the even one). Whole fp32 masters exist only while the optimizer updates them, a few
at a time.
"""

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from selfdistill.method.slices import local, split_as

PIECE_ELEMENTS = 1 << 24
"""Weights that the optimizer, or a teacher on the host, updates at once: 17 million, whose masters take 67 MB."""


class MasterWeights:
    """The trainable parameters of ``module``, each with an fp32 master. Only bf16 parameters need one of their own.

    Inside ``attached`` a hook adds each new gradient of a parameter to its master's fp32 gradient, and frees it.
    Outside, gradients stay in the module, so that other optimizers can train it.

    ``masters`` holds what an optimizer is made for. The values of a bf16 parameter's master are there only inside
    ``update``; otherwise ``value`` computes them.

    Raises:
        ValueError: no parameter of ``module`` is trainable, or one of them is float16.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ValueError("the model has no trainable parameters")
        self.masters: dict[str, nn.Parameter] = {}
        self._low: dict[str, Tensor] = {}  # int16
        self._versions: dict[str, int] = {}  # of the parameters, when the low bits were computed
        for name, parameter in self.parameters.items():
            if parameter.dtype == torch.float16:
                raise ValueError(f"{name} is float16, which has no master weights")
            self.masters[name] = parameter
            if parameter.dtype == torch.bfloat16:
                self.masters[name] = nn.Parameter(_without_values(parameter))
                self._low[name] = torch.zeros_like(parameter, dtype=torch.int16, requires_grad=False)
                self._versions[name] = parameter._version

    def items(self) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
        """Name, parameter and master of every trainable parameter."""
        for name, parameter in self.parameters.items():
            yield name, parameter, self.masters[name]

    @torch.no_grad()
    def value(self, name: str) -> Tensor:
        """The values of a master: a new fp32 tensor, or the parameter itself if that is its own master."""
        parameter = self.parameters[name]
        if name not in self._low:
            return parameter.detach()
        return _joined(parameter.detach(), self._low[name])

    @torch.no_grad()
    def value_in_pieces(self, name: str) -> Iterator[Tensor]:
        """Yields ``value(name)``, flattened, in pieces of ``PIECE_ELEMENTS``, of which one is in memory at a time."""
        parameter = self.parameters[name]
        low = self._low.get(name)
        lows = itertools.repeat(None) if low is None else low.reshape(-1).split(PIECE_ELEMENTS)
        for piece, bits in zip(parameter.detach().reshape(-1).split(PIECE_ELEMENTS), lows, strict=low is not None):
            yield piece if bits is None else _joined(piece, bits)

    @torch.no_grad()
    def set_value(self, name: str, value: Tensor) -> None:
        """Gives a master new values [as its parameter], and rounds them into the parameter."""
        parameter = self.parameters[name]
        if name in self._low:
            self._split(name, value.to(parameter.device, torch.float32, copy=True).contiguous())
        else:
            parameter.copy_(value)

    @torch.no_grad()
    def _split(self, name: str, whole: Tensor) -> None:
        """Stores a master, given as a contiguous fp32 tensor, which is overwritten, as weight and lower bits."""
        parameter = self.parameters[name]
        take_low(whole, self._low[name])
        parameter.copy_(whole)
        self._versions[name] = parameter._version

    # -- gradients ---------------------------------------------------------------------------------------------------

    @contextmanager
    def attached(self) -> Generator[None]:
        """Context in which gradients go to the masters. All gradients are cleared when it begins and ends."""
        self.clear_gradients()
        hooks = [
            self.parameters[name].register_post_accumulate_grad_hook(_adder(self.masters[name])) for name in self._low
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.clear_gradients()

    def clear_gradients(self) -> None:
        """Drops the gradients of all parameters and masters, such as those of an interrupted step."""
        for _, parameter, master in self.items():
            parameter.grad = master.grad = None

    # -- the optimizer's step ----------------------------------------------------------------------------------------

    def update(self, step: Callable[[], Any], *, at_once: bool = False) -> None:
        """Runs an optimizer's step, rounds the masters into the parameters and clears all gradients.

        The step is called once for every few parameters, the others having no gradient then, which optimizers skip.

        Args:
            step: the step of an optimizer made for ``masters``.
            at_once: call it once for all, for an optimizer that keeps numbers of its own per step.
        """
        gradients = {name: master.grad for name, master in self.masters.items() if master.grad is not None}
        if not gradients:
            return
        for name in gradients:
            self.masters[name].grad = None
        for piece in [list(gradients)] if at_once else self._pieces(list(gradients)):
            for name in piece:
                master = self.masters[name]
                if name in self._low:
                    master.data = self.value(name)
                master.grad = gradients.pop(name)
            try:
                step()
            finally:
                for name in piece:
                    master = self.masters[name]
                    master.grad = None
                    if name in self._low:
                        self._split(name, master.data)
                        master.data = _without_values(self.parameters[name])

    def stepping(self, optimizer_class: type[Any], *, at_once: bool = False) -> type[Any]:
        """Returns a subclass of an optimizer whose ``step`` is run by ``update``."""
        masters = self

        class OnMasters(optimizer_class):
            def step(self, closure: None = None) -> None:
                masters.update(super().step, at_once=at_once)

        return OnMasters

    def _pieces(self, names: list[str]) -> Iterator[list[str]]:
        """Splits names so that the parameters of each list have ``PIECE_ELEMENTS`` weights at most, or are one."""
        piece: list[str] = []
        size = 0
        for name in names:
            number = self.parameters[name].numel()
            if piece and size + number > PIECE_ELEMENTS:
                yield piece
                piece, size = [], 0
            piece.append(name)
            size += number
        if piece:
            yield piece

    # -- saving and restoring ----------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Forgets the lower bits of parameters that were changed from outside: they are their own value now."""
        for name, low in self._low.items():
            if self.parameters[name]._version != self._versions[name]:
                low.zero_()
                self._versions[name] = self.parameters[name]._version

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the lower 16 bits of the masters by parameter name, int16; the model's weights are the upper ones."""
        return dict(self._low)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores ``state_dict()``, once the model's own weights are restored.

        Raises:
            ValueError: ``state`` has other parameter names than this model, or holds something else.
        """
        if any(isinstance(parameter, DTensor) for parameter in self.parameters.values()):
            self._add_low(state)
            return
        if self._low.keys() != state.keys():
            odd = min(self._low.keys() ^ state.keys())
            raise ValueError(f"master weights do not fit the model: {odd!r} is on one side only")
        for name, low in self._low.items():
            if state[name].dtype != torch.int16:
                raise ValueError(f"master weights do not fit the model: {name!r} is {state[name].dtype}, not int16")
            low.copy_(state[name])
            self._versions[name] = self.parameters[name]._version

    @torch.no_grad()
    def _add_low(self, state: Mapping[str, Tensor]) -> None:
        """Adds lower bits to fp32 masters of which this process has slices, and which are the upper bits so far."""
        for name, low in state.items():
            if name not in self.parameters or low.dtype != torch.int16:
                raise ValueError(f"master weights do not fit the model: {name!r}")
            parameter = self.parameters[name]
            own = local(split_as(parameter, low.int()))  # gloo does not send int16
            local(parameter).view(torch.int32).add_(own)


def _joined(weight: Tensor, low: Tensor) -> Tensor:
    """The fp32 masters of bf16 weights and their lower 16 bits, int16 of the same shape."""
    whole = weight.float()
    whole.view(torch.int32).add_(low)
    return whole


def take_low(whole: Tensor, low: Tensor) -> None:
    """Moves the lower 16 bits of contiguous fp32 masters to ``low``, int16 of the same shape, so that what is left is
    exact in bf16."""
    bits = whole.view(torch.int32)
    low.copy_(bits)  # keeps the lower 16 bits, as a signed number
    bits.sub_(low)


def _without_values(parameter: Tensor) -> Tensor:
    """An fp32 tensor shaped as ``parameter`` that takes no memory. Reading it gives NaN, writing to it fails."""
    return torch.full((), torch.nan, device=parameter.device).expand(parameter.shape)


def _adder(master: nn.Parameter) -> Callable[[Tensor], None]:
    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return add
