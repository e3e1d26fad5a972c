"""Tensors of which every process has a slice: torch's ``DTensor``, as FSDP2 makes it of a weight."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """This process's slice of a tensor, without a copy; a tensor that is not split as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from the slices. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def split_as(like: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor, which all processes have, split as ``like`` is, on its device. All processes must call it."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def whole_tree(tree: Any, *, keep: bool) -> Any:
    """Nested dicts, lists and tuples with the split tensors in them gathered, into the host's memory.

    All processes must call it with trees of the same form. ``keep``: whether this process needs them; otherwise each is
    None.
    """
    if isinstance(tree, DTensor):
        gathered = whole(tree)
        return gathered.cpu() if keep else None
    if isinstance(tree, dict):
        return {key: whole_tree(one, keep=keep) for key, one in cast(dict[Any, Any], tree).items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole_tree(one, keep=keep) for one in cast(Any, tree))
    return tree


def split_states(state: dict[str, Any], optimizer: Any) -> None:
    """Splits what an optimizer's state, stored whole, holds for each weight, as the optimizer's weights are split.

    All processes must call it. ``state``: as ``optimizer.state_dict()``; it is changed in place.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, kept in state["state"].items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == weights[index].shape:
                kept[name] = split_as(weights[index], value)
