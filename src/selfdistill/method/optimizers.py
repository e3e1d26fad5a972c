"""Optimizers of the fp32 masters: how they are made, and the memory that their states take.

Names are transformers' (``optim``). Those of bitsandbytes with ``8bit`` in their name keep moments in 8 bits, in blocks
of 256 with one fp32 scale each. As in transformers, embeddings keep moments of 32 bits, since their gradients are too
uneven; bitsandbytes itself does so for tensors below 4,096 numbers, such as norms. ``paged`` ones lie in memory that
moves to the host when a CUDA device is full.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.training_args import OptimizerNames

from selfdistill.errors import UserError, did_you_mean, quoted
from selfdistill.method.master_weights import MasterWeights

MOMENTS = {"adamw": 2, "adam": 2, "ademamix": 3, "lion": 1, "rmsprop": 1, "adagrad": 1, "sgd": 0, "adafactor": 0}
"""Numbers per weight that an optimizer keeps, by what its name contains. A factored second moment takes hardly any."""


def optimizer_name(args: Any) -> str:
    """The value of ``optim``, which may also be a member of transformers' enumeration.

    Raises:
        UserError: transformers knows no optimizer of that name.
    """
    name, known = str(getattr(args.optim, "value", args.optim)), [each.value for each in OptimizerNames]
    if name not in known:
        raise UserError(f"optim: unknown optimizer {quoted(name)}.{did_you_mean(name, known)}")
    return name


def make_optimizer(
    optimizer_class: type[Any],
    arguments: dict[str, Any],
    name: str,
    masters: MasterWeights,
    groups: Sequence[dict[str, Any]],
    model: nn.Module,
) -> Any:
    """Makes an optimizer of the masters whose ``step`` is ``masters.update``.

    Args:
        optimizer_class: the optimizer.
        arguments: its arguments.
        name: its name, a value of ``optim``.
        masters: the trained weights.
        groups: parameter groups of the masters.
        model: the model, whose embeddings keep moments of 32 bits.
    """
    if arguments.get("optim_bits") == 8:
        from bitsandbytes.optim.optimizer import GlobalOptimManager

        manager: Any = GlobalOptimManager.get_instance()
        for master in embeddings(masters, model):
            manager.override_config(master, "optim_bits", 32)
    # schedule-free optimizers count steps by themselves
    on_masters = masters.stepping(optimizer_class, at_once="schedule_free" in name)
    return on_masters(list(groups), **arguments)


def embeddings(masters: MasterWeights, model: nn.Module) -> list[nn.Parameter]:
    """The masters of the model's embeddings."""
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    return [master for _, parameter, master in masters.items() if any(parameter is weight for weight in weights)]


def state_bytes(name: str, num_weights: int, num_embeddings: int, *, on_cpu: bool) -> int:
    """Bytes of an optimizer's states on the device.

    Args:
        name: its name, a value of ``optim``. One that is not known is taken for AdamW.
        num_weights: number of trained weights.
        num_embeddings: how many of them belong to embeddings.
        on_cpu: whether the device is a CPU, where nothing is paged.
    """
    moments = next((number for part, number in MOMENTS.items() if part in name), 2)
    if "paged" in name and not on_cpu:
        return 0
    if "4bit" in name or "8bit" in name:
        short = 0.5 if "4bit" in name else 1
        exact = 0 if name.startswith("adamw_torch") else num_embeddings
        return round(moments * (4 * exact + (num_weights - exact) * (short + 4 / 256)))
    return 4 * moments * num_weights
