"""fp32 copies of weights that are computed with in a shorter dtype.

A bf16 weight has 8 bits of precision: an update smaller than 1/256 of it is rounded away. So the
optimizer works on fp32 masters, gradients of micro-batches add up in fp32, and the model's own
tensors are rounded copies for computing.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MasterWeights:
    """The trainable parameters of ``module`` with a fp32 master each; a fp32 parameter is its own.

    Inside ``attached`` gradients leave the parameters as soon as they are made: a hook adds them to the master's fp32
    gradient and frees them. Outside, the module's gradients are its own, so that other optimizers can train it.

    Raises:
        ValueError: nothing in ``module`` is trainable.
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
        """``items`` whose master is another tensor."""
        yield from (item for item in self.items() if item[2] is not item[1])

    @contextmanager
    def attached(self) -> Generator[None]:
        """Inside, gradients go to the masters. They begin without any, and so do the parameters."""
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
        """Drops every gradient, such as those of a step that was interrupted."""
        for _, parameter, master in self.items():
            parameter.grad = master.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over parameters that were changed from outside: a master is kept where it rounds to its parameter."""
        for _, parameter, master in self.rounded():
            if not torch.equal(master.to(parameter.dtype), parameter):
                master.copy_(parameter)

    @torch.no_grad()
    def write_back(self) -> None:
        """Rounds the masters into the parameters and clears the masters' gradients; run after a step."""
        for _, parameter, master in self.rounded():
            parameter.copy_(master)
            master.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Masters by parameter name, fp32; parameters that are their own master are left out."""
        return {name: master.detach() for name, _, master in self.rounded()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores masters and the parameters rounded from them.

        Raises:
            ValueError: ``state`` holds other names than this model's.
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
