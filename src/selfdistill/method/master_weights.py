"""fp32 copies of trainable weights, for models that compute in a shorter dtype.

A bf16 weight has 8 bits of precision, so an update below 1/256 of it can be lost to rounding. Therefore the optimizer
updates fp32 masters, gradients of micro-batches are summed in fp32, and the model computes with rounded copies.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MasterWeights:
    """The trainable parameters of ``module``, each with an fp32 master; an fp32 parameter is its own master.

    Inside ``attached`` a hook adds each new gradient of a parameter to its master's fp32 gradient, and frees it.
    Outside, gradients stay in the module, so that other optimizers can train it.

    Raises:
        ValueError: no parameter of ``module`` is trainable.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ValueError("the model has no trainable parameters")
        self.masters: dict[str, nn.Parameter] = {}
        for name, parameter in self.parameters.items():
            same = parameter.dtype == torch.float32
            self.masters[name] = parameter if same else nn.Parameter(parameter.detach().float())  # type: ignore[assignment]

    def items(self) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
        """Name, parameter and master of every trainable parameter."""
        for name, parameter in self.parameters.items():
            yield name, parameter, self.masters[name]  # type: ignore[misc]

    def rounded(self) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
        """The ``items`` whose master is a tensor of its own."""
        yield from (item for item in self.items() if item[2] is not item[1])

    @contextmanager
    def attached(self) -> Generator[None]:
        """Context in which gradients go to the masters. All gradients are cleared when it begins and ends."""
        self.clear_gradients()
        hooks = [
            parameter.register_post_accumulate_grad_hook(_adder(master)) for _, parameter, master in self.rounded()
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

    @torch.no_grad()
    def refresh(self) -> None:
        """Updates masters whose parameter was changed from outside, that is, those that no longer round to it."""
        for _, parameter, master in self.rounded():
            if not torch.equal(master.to(parameter.dtype), parameter):
                master.copy_(parameter)

    @torch.no_grad()
    def write_back(self) -> None:
        """Rounds the masters into the parameters and clears their gradients. Call after an optimizer step."""
        for _, parameter, master in self.rounded():
            parameter.copy_(master)
            master.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the fp32 masters by parameter name, without parameters that are their own master."""
        return {name: master.detach() for name, _, master in self.rounded()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the masters and the parameters that are rounded from them.

        Raises:
            ValueError: ``state`` has other parameter names than this model.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            odd = min(own.keys() ^ state.keys())
            raise ValueError(f"master weights do not fit the model: {odd!r} is on one side only")
        for name, tensor in own.items():
            tensor.copy_(state[name])
        for _, parameter, master in self.rounded():
            parameter.copy_(master)


def _adder(master: nn.Parameter) -> Callable[[Tensor], None]:
    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return add
