"""Nested states, such as an optimizer's, as a JSON file and a safetensors file. No pickle is written or read.

In JSON a tensor is ``{"$tensor": name}``, a tuple ``{"$tuple": [...]}``, a float that is not finite
``{"$float": "nan"}``, and a dict whose keys are not all plain strings ``{"$items": [[key, value], ...]}``.
"""

import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfdistill import run_folder


def save_tree(folder: Path, name: str, tree: Any) -> None:
    """Writes ``name.json`` and ``name.safetensors`` into a folder.

    Args:
        folder: the folder.
        name: name of the files.
        tree: dicts, lists, tuples, numbers, strings, None and tensors, nested. A tensor that occurs twice is stored
            once.

    Raises:
        ValueError: the tree holds something else.
    """
    tensors: dict[str, Tensor] = {}
    packed = _packed(tree, "", tensors, {})
    save_file(tensors, folder / f"{name}.safetensors")
    run_folder.write_text(folder / f"{name}.json", json.dumps(packed) + "\n")


def load_tree(folder: Path, name: str) -> Any:
    """Reads what ``save_tree`` wrote; tensors lie in the host's memory."""
    tensors = load_file(folder / f"{name}.safetensors")
    return _unpacked(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), tensors)


def _packed(value: Any, place: str, tensors: dict[str, Tensor], names: dict[int, str]) -> Any:
    """The value in JSON; its tensors are added to ``tensors``, and their names to ``names`` by their identity."""
    if isinstance(value, Tensor):
        if id(value) not in names:
            names[id(value)] = place
            tensors[place] = _stored(value)
        return {"$tensor": names[id(value)]}
    if isinstance(value, dict):
        items = [
            (key, _packed(one, f"{place}/{key}", tensors, names)) for key, one in cast(dict[Any, Any], value).items()
        ]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
            return dict(items)
        return {"$items": [[_packed(key, place, tensors, names), one] for key, one in items]}
    if isinstance(value, list | tuple):
        parts = [_packed(one, f"{place}/{number}", tensors, names) for number, one in enumerate(cast(list[Any], value))]
        return parts if isinstance(value, list) else {"$tuple": parts}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{place}: a {type(value).__name__} can't be stored without pickle")


def _stored(tensor: Tensor) -> Tensor:
    """The tensor as safetensors takes it: without gaps, and sharing memory with no other one."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(one, tensors) for one in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    packed = cast(dict[str, Any], value)
    if "$tensor" in packed:
        return tensors[packed["$tensor"]]
    if "$tuple" in packed:
        return tuple(_unpacked(packed["$tuple"], tensors))
    if "$float" in packed:
        return float(packed["$float"])
    if "$items" in packed:
        return {_unpacked(key, tensors): _unpacked(one, tensors) for key, one in packed["$items"]}
    return {key: _unpacked(one, tensors) for key, one in packed.items()}
