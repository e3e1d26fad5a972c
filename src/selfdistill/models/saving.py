"""Saves a model so that other programs can use the folder, with the same bytes each time."""

from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.models.output_head import unwrapped


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    eos_ids: Collection[int],
    folder: Path,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Writes a model, or its adapter, and its tokenizer to a folder in the Hugging Face layout.

    PEFT writes an adapter's sets of names in an order that differs from process to process; here they are sorted.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        eos_ids: ids that end a turn, for the generation config.
        folder: where to write.
        weights: by the names of the model's ``state_dict``; by default those that it holds.
    """
    if weights is not None and not isinstance(model, PeftModel):
        model, weights = holding(model, weights), None
    given: dict[str, Any] = {} if weights is None else {"state_dict": weights}
    configs = getattr(model, "peft_config", {}).values()
    sets = [(config, name, value) for config in configs for name, value in vars(config).items() if type(value) is set]
    for config, name, value in sets:
        setattr(config, name, sorted(value))
    try:
        with ready_to_save(model, eos_ids):
            model.save_pretrained(str(folder), **given)
    finally:
        for config, name, value in sets:
            setattr(config, name, value)
    tokenizer.save_pretrained(str(folder))


def holding(model: PreTrainedModel, weights: dict[str, Tensor]) -> PreTrainedModel:
    """A model of the same class and config that holds these weights, by the names of the model's ``state_dict``. It can
    be saved; buffers that are not saved have no values."""
    with torch.device("meta"):
        made: Any = type(model)(model.config)
    made.load_state_dict(weights, assign=True)
    made.tie_weights()
    made.generation_config = model.generation_config
    return made


@contextmanager
def ready_to_save(model: PreTrainedModel, eos_ids: Collection[int]) -> Generator[None]:
    """Context in which the model's generation config has ``eos_ids`` as end-of-sequence ids and can be saved.

    A model may end its turns with another token than the tokenizer's EOS, and programs that load the folder must know
    it. A generation config that transformers refuses to save (sampling settings without sampling) is corrected.
    """
    inner: Any = unwrapped(model)
    own = inner.generation_config
    inner.generation_config = saved_generation_config(own, eos_ids)
    try:
        yield
    finally:
        inner.generation_config = own


def saved_generation_config(own: GenerationConfig | None, eos_ids: Collection[int]) -> GenerationConfig:
    """Returns a copy of ``own`` with these end-of-sequence ids, corrected to pass transformers' strict validation."""
    config = GenerationConfig.from_dict(own.to_dict() if own else {})
    config.eos_token_id = sorted(eos_ids) or None
    if isinstance(config.eos_token_id, list) and len(config.eos_token_id) == 1:
        (config.eos_token_id,) = config.eos_token_id
    if _valid(config):
        return config
    if config.temperature != 0:  # a temperature of 0 stands for greedy decoding
        config.do_sample = True  # its temperature, top_p or top_k have no effect otherwise
        if _valid(config):
            return config
    return GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, bos_token_id=config.bos_token_id
    )


def _valid(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
