"""One model split over the processes of a run: each keeps a slice of every weight (torch's FSDP2, ``fully_shard``).

The slices of trained weights are fp32 and are the masters; so are those of their gradients, of the teacher and of the
optimizer's states, which are split with them. Just before a pass through a layer torch gathers its weights, in the
dtype to compute in, and frees them afterwards; in a backward pass it adds up the gradients of all processes in fp32,
and leaves each its slice of the sum.

Two things follow for a training step:

- A pass through a layer is an exchange of all processes, so they make the same passes (``alike``).
- The hooks that gather weights are those of modules' ``forward``. Embeddings, last norm and output head have no layer
  of their own; they belong to ``_Root``, whose forward runs whatever function it is given. So the whole of a pass, with
  the loss, which reads the output head, runs ``inside`` it, and finds whole weights.

The hooks gather from the memory of the slices, whatever tensor a parameter names. Weights are therefore exchanged by
their contents, once what was gathered before is freed (``release``).

fully_shard is called here and not through accelerate's plugin: that wraps the model as training begins, when masters,
teacher and optimizer have been made of other tensors; its root's forward is the model's own; and its policy adds up
gradients in bf16, and rounds outputs, such as the loss, to it.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from peft import get_peft_model_state_dict, load_peft_weights
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from selfdistill.errors import UserError
from selfdistill.method.alike import alike
from selfdistill.method.batch import MicroBatch
from selfdistill.method.master_weights import take_low
from selfdistill.method.processes import Processes, exchanging
from selfdistill.method.slices import local, split_as, whole
from selfdistill.models.attention import fit_attention
from selfdistill.models.output_head import decoder, unwrapped
from selfdistill.models.quantization import quantized_to

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Settings of models whose layers have experts, of which a process may use others than the rest."""

_T = TypeVar("_T")


class Whole:
    """A model that is whole in every process. The methods are those of ``Sharded``, with nothing to do."""

    is_split = False
    dtype: torch.dtype | None = None
    """None: every weight is in the dtype that it computes in."""

    def inside(self, function: Callable[[], _T]) -> _T:
        """Calls ``function``."""
        return function()

    @contextmanager
    def gathered(self) -> Generator[None]:
        """Context in which the model can be used as it is."""
        yield

    def release(self) -> None:
        """Does nothing."""

    def lasting(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def alike(self, batches: list[MicroBatch], pad: int) -> list[MicroBatch]:
        """The micro-batches as they are."""
        return batches

    def norm(self, own: Tensor) -> Tensor:
        """The norm as it is."""
        return own

    def gather(self) -> "Gathered":
        """Nothing: the model holds its weights itself."""
        return Gathered(None, {})


class Sharded:
    """A model split over processes, in place.

    Args:
        model: the model, whole in every process, on the host or on the device of the processes, where its slices will
            be. Trained weights become the main process's.
        processes: those that share it.

    Raises:
        UserError: it can't be split.
    """

    is_split = True

    def __init__(self, model: PreTrainedModel, processes: Processes) -> None:
        layers = _layers(model)
        self._processes, self._model = processes, model
        self.dtype = _dtype(model)
        """The dtype that the model computes in."""
        policy = MixedPrecisionPolicy()
        if self.dtype != torch.float32:
            policy = MixedPrecisionPolicy(param_dtype=self.dtype, reduce_dtype=torch.float32)
        mesh = init_device_mesh(processes.device.type, (processes.size,))
        self._root: Any = _Root(model)
        self._layers = cast(list[FSDPModule], layers)
        modules: list[Any] = [*layers, self._root]
        for module in modules:
            for parameter in module.parameters():
                if parameter.requires_grad and not isinstance(parameter, DTensor):
                    parameter.data = processes.of_main(parameter.to(processes.device)).float()
            fully_shard(module, mesh=mesh, mp_policy=policy)
            module.set_gradient_divide_factor(1.0)  # the loss is a sum over all processes, and so are its gradients
            module.set_force_sum_reduction_for_comms(True)  # gloo neither averages nor multiplies
        before = self._root
        for layer in self._layers:  # named, since otherwise torch goes by the passes that a process made, also alone
            layer.set_modules_to_backward_prefetch([before])
            before = layer
        self._root.set_modules_to_backward_prefetch([before])
        with torch.no_grad():
            self.inside(lambda: None)  # with which the root becomes one
        self.release()
        fit_attention(model)

    def inside(self, function: Callable[[], _T]) -> _T:
        """The result of ``function``, a pass through the model. With gradients it must be a tensor that they reach.
        All processes must call it with functions that make the same passes."""
        with exchanging():
            return self._root(function)

    @contextmanager
    def gathered(self) -> Generator[None]:
        """Context in which every process has all weights, in the dtype to compute in, and may use the model alone,
        without gradients. All processes must enter it."""
        self.release()
        with exchanging():
            for module in (self._root, *self._layers):
                module.unshard()
        for layer in self._layers:
            layer.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.set_reshard_after_forward(True, recurse=False)
            self.release()

    def release(self) -> None:
        """Frees gathered weights, so that the next pass gathers what the slices hold by then."""
        for module in (self._root, *self._layers):
            module.reshard()

    def lasting(self, tensor: Tensor) -> Tensor:
        """A copy of a gathered weight that stays when the weight is freed."""
        return tensor.detach().clone()

    def alike(self, batches: list[MicroBatch], pad: int) -> list[MicroBatch]:
        """The micro-batches, filled up so that those of all processes take the same passes; see ``alike``."""
        return alike(batches, self._processes.gathered, pad, self._processes.device)

    def norm(self, own: Tensor) -> Tensor:
        """The Euclidean norm of numbers of which every process has a part: a scalar, from that of its own part."""
        (total,) = self._processes.totals(float(own) ** 2)
        return torch.tensor(math.sqrt(total), device=own.device)

    def gather(self) -> "Gathered":
        """The model's whole weights. All processes must call it; what it returns is empty in all but the main one."""
        weights, low, found = dict[str, Tensor](), dict[str, Tensor](), dict[int, Tensor]()
        self.release()
        with exchanging():
            for name, tensor in self._model.state_dict(keep_vars=True).items():
                if id(tensor) not in found:  # tied weights are one tensor under two names
                    value = whole(tensor.detach())
                    trained = low if tensor.requires_grad else None
                    found[id(tensor)] = (
                        self._stored(name, value, trained) if self._processes.is_main else torch.empty(0)
                    )
                if self._processes.is_main:
                    weights[name] = found[id(tensor)]
        return Gathered(weights, low)

    def _stored(self, name: str, value: Tensor, low: dict[str, Tensor] | None) -> Tensor:
        """A copy in the host's memory, of a trained weight in the dtype to compute in. What that rounds away goes to
        ``low``."""
        stored = value.to("cpu", copy=True)
        if low is None or self.dtype == torch.float32:
            return stored
        low[name] = torch.empty(stored.shape, dtype=torch.int16)
        take_low(stored, low[name])
        return stored.to(self.dtype)


@dataclass(frozen=True, slots=True)
class Gathered:
    """Whole weights of a model that is split, in the host's memory."""

    weights: dict[str, Tensor] | None
    """By the names of the model's ``state_dict``, in the dtype to compute in; None if it holds them itself."""
    low: dict[str, Tensor]
    """The masters' lower 16 bits by parameter name, int16; see ``master_weights``."""


Sharding = Whole | Sharded
"""Where the weights of a model are."""


class _Root(nn.Module):
    """Holds a model. Its forward runs any function, while torch's hooks keep gathered what is in none of the layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], _T]) -> _T:
        return function()


def _layers(model: PreTrainedModel) -> Sequence[nn.Module]:
    """The layers of a model, which are gathered one at a time. Raises UserError if it can't be split."""
    inner = unwrapped(model)
    kind, text = inner.config.model_type, inner.config.get_text_config(decoder=True)
    if quantized_to(model):
        raise UserError("--shard_weights: quantized weights are not split. Leave --quantize out, or --shard_weights.")
    if any(getattr(text, name, None) for name in EXPERTS):
        raise UserError(
            f"--shard_weights: models of type {kind} have experts, of which processes use different ones. Leave it "
            "out: every process then has the whole model."
        )
    layers = [module for module in decoder(model).modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"--shard_weights: the layers of models of type {kind} are not known. Leave it out: every process then has "
            "the whole model."
        )
    return layers


def _dtype(model: PreTrainedModel) -> torch.dtype:
    """The dtype of all weights. Raises UserError if there are several."""
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()})
    if len(dtypes) > 1:
        raise UserError(f"--shard_weights: weights are {' and '.join(dtypes)}. Load the model in one dtype (--dtype).")
    return next(model.parameters()).dtype


@torch.no_grad()
def load_split_adapter(model: Any, adapter: str, folder: str) -> None:
    """Gives an adapter's weights, of which this process has slices, the values in a folder that PEFT wrote."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    numbers = {name: torch.tensor(number) for number, name in enumerate(parameters)}
    places = get_peft_model_state_dict(model, numbers, adapter, save_embedding_layers=False)
    saved, names = load_peft_weights(folder, device="cpu"), list(parameters)
    for key, number in places.items():
        parameter = parameters[names[int(number)]]
        local(parameter).copy_(local(split_as(parameter, saved[key])))
