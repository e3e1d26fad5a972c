"""Eval mode for as long as a model is looked at or trained: student and teacher must differ by the prompt alone."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """``model.eval()``; afterwards each of its modules is in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def without_noise(model: nn.Module) -> Generator[None]:
    """The model as it is trained: eval mode, so that neither role draws dropout or jitter.

    Layers that keep no activations (gradient checkpointing) do so in training mode only. They alone are put into it,
    without the modules inside them, and the rates that they read for functional dropout are 0 meanwhile. Afterwards
    everything is as it was.
    """
    with evaluating(model), ExitStack() as restored:
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer) and getattr(module, "gradient_checkpointing", False):
                module.training = True
                for holder in (module, getattr(module, "config", None)):
                    _silence(holder, restored)
        yield


def _silence(holder: Any, restored: ExitStack) -> None:
    """Sets the dropout rates among an object's attributes to 0 until ``restored`` closes."""
    for name, value in list(vars(holder).items()) if holder is not None else ():
        if isinstance(value, float) and "drop" in name and value:
            setattr(holder, name, 0.0)
            restored.callback(setattr, holder, name, value)
