"""fp32 copies of weights that are computed with in a shorter dtype.

A bf16 weight has 8 bits of precision: an update smaller than 1/256 of it is rounded away. So the
optimizer works on fp32 masters, gradients of micro-batches add up in fp32, and the model's own
tensors are rounded copies for computing.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class MasterWeights:
    """The trainable parameters of ``module`` with a fp32 master each; a fp32 parameter is its own.

    Gradients leave the parameters as soon as they are made: a hook adds them to the master's fp32
    gradient and frees them.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.masters: dict[str, nn.Parameter] = {}
        self._hooks: list[Any] = []
        for name, parameter in self.parameters.items():
            if parameter.dtype == torch.float32:
                self.masters[name] = parameter
                continue
            master = nn.Parameter(parameter.detach().float())
            self.masters[name] = master
            self._hooks.append(parameter.register_post_accumulate_grad_hook(_adder(master)))

    def items(self) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
        """Name, parameter and master of every trainable parameter."""
        for name, parameter in self.parameters.items():
            yield name, parameter, self.masters[name]

    @torch.no_grad()
    def write_back(self) -> None:
        """Rounds the masters into the parameters and clears the masters' gradients; run after a step."""
        for _, parameter, master in self.items():
            if master is not parameter:
                parameter.copy_(master)
                master.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Masters by parameter name, fp32; parameters that are their own master are left out."""
        return {name: m.detach() for name, p, m in self.items() if m is not p}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores masters and the parameters rounded from them.

        Raises:
            ValueError: ``state`` holds other names than this model's.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())[0]
            raise ValueError(f"master weights do not fit the model: {odd!r} is on one side only")
        for name, tensor in own.items():
            tensor.copy_(state[name])
        for _, parameter, master in self.items():
            if master is not parameter:
                parameter.copy_(master)

    def remove_hooks(self) -> None:
        """Gives gradients back to the parameters, as before."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _adder(master: nn.Parameter):
    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return add
