"""The mode of a model while it scores and trains: student and teacher must differ only in the prompt."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

CHECKPOINTING = {
    "gradient_checkpointing",
    "_gradient_checkpointing_func",
    "_require_grads_hook",
    "_require_grads_hooks",
}
"""Attributes that transformers adds to modules when it switches gradient checkpointing on."""


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Context in which the model is in eval mode; afterwards each module is back in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def without_noise(model: nn.Module) -> Generator[None]:
    """Context for training: eval mode, so that there is no dropout or jitter in either role.

    Layers with gradient checkpointing recompute activations in training mode only. Such a layer is put into training
    mode, without the modules inside it, and the dropout rates that it reads are set to 0. Everything is restored
    afterwards.
    """
    with evaluating(model), ExitStack() as restored:
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer) and getattr(module, "gradient_checkpointing", False):
                module.training = True
                for holder in (module, getattr(module, "config", None)):
                    _silence(holder, restored)
        yield


@contextmanager
def own_checkpointing(model: PreTrainedModel) -> Generator[None]:
    """Context after which the model recomputes activations, or not, as before: transformers' Trainer switches that on
    for a training run, with a hook on the input embeddings where they are frozen, and leaves it on."""
    before = [(module, vars(module).keys() & CHECKPOINTING) for module in model.modules()]
    was_on = model.is_gradient_checkpointing
    try:
        yield
    finally:
        if not was_on and model.is_gradient_checkpointing:
            model.gradient_checkpointing_disable()
        for module, names in before:
            for name in vars(module).keys() & CHECKPOINTING - names:
                hooks = getattr(module, name)
                for hook in hooks if isinstance(hooks, list) else [hooks]:
                    if isinstance(hook, RemovableHandle):
                        hook.remove()
                delattr(module, name)


def _silence(holder: Any, restored: ExitStack) -> None:
    """Sets the dropout rates among the attributes of ``holder`` to 0 until ``restored`` is closed."""
    for name, value in list(vars(holder).items()) if holder is not None else ():
        if isinstance(value, float) and "drop" in name and value:
            setattr(holder, name, 0.0)
            restored.callback(setattr, holder, name, value)
