"""What a run needs before its weights are loaded, each part made once: settings, prompts, lengths, memory."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from selfdistill.data.general import anchor_examples
from selfdistill.errors import UserError
from selfdistill.method.config import SDFTConfig
from selfdistill.method.memory import MemoryCheck, MemoryEstimate
from selfdistill.method.methods import METHODS
from selfdistill.models import loading
from selfdistill.settings import flat
from selfdistill.settings.train import TrainOptions, method_config
from selfdistill.tasks.task import Task
from selfdistill.training.rendered import RenderedRows
from selfdistill.training.settings import (
    check_preflight_rows,
    completion_budget,
    needs_template,
    trainer_config,
)
from selfdistill.types import PromptPair, Template


class ModelFiles:
    """What is known of a model without its weights: config and tokenizer, each read once.

    Args:
        name: as ``--model_name`` takes it.

    Raises:
        UserError: there is no such model or tokenizer, or no chat template.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.tokenizer: PreTrainedTokenizerBase = loading.load_tokenizer(name)
        loading.require_chat_template(self.tokenizer, name)

    @cached_property
    def config(self) -> Any:
        """The model's transformers config. Raises UserError where it is of no causal language model."""
        return loading.load_config(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that is ready for its model."""

    options: TrainOptions
    task: Task
    rows: RenderedRows
    files: ModelFiles
    config: SDFTConfig
    pairs: list[PromptPair]
    """The training rows; without the teacher's prompts where a preflight has still to choose the template."""
    anchors: list[PromptPair]
    memory: MemoryEstimate
    shortage: str | None
    """What the run lacks of memory, and what would help; None where it fits."""

    @property
    def device(self) -> torch.device:
        """Where the run will compute."""
        return self.config.device

    @property
    def needs_template(self) -> bool:
        """True where a preflight has still to choose how the teacher is shown the demonstration."""
        return needs_template(self.options)

    def facts(self) -> dict[str, Any]:
        """What ``preflight --json`` prints of the run: tokens of prompts, and memory."""
        roles = {
            "student": [len(pair.student_ids) for pair in self.pairs],
            "teacher": [len(pair.teacher_ids) for pair in self.pairs if pair.teacher_ids is not None],
        }
        tokens = {role: {"median": sorted(n)[len(n) // 2], "longest": max(n)} for role, n in roles.items() if n}
        return {"prompt_tokens": tokens, "peak_memory_bytes": self.memory.peak, "fits": self.shortage is None}

    def in_folder(self, folder: Path) -> "Prepared":
        """The same run, writing into ``folder``."""
        self.config.output_dir = str(folder)
        return replace(self, options=flat.changed(self.options, {"output_dir": str(folder)}))

    def with_template(self, template: Template, repeat: int) -> "Prepared":
        """The same run with the template that a preflight chose. Raises UserError where a row does not fit it."""
        options = flat.changed(self.options, {"template": template, "template_repeat": repeat})
        return prepare(options, self.task, self.rows, self.files, memory_of=self)


def prepare(
    options: TrainOptions,
    task: Task,
    rows: RenderedRows,
    files: ModelFiles,
    *,
    memory_of: Prepared | None = None,
) -> Prepared:
    """Settings, prompts and memory of a run, so that what is wrong shows before any weight is loaded.

    ``memory_of``: the same run with another template, whose estimate holds.

    Raises:
        UserError: a setting is unknown, out of range or would be ignored, a prompt is over its limit, or the model is
            not there.
    """
    if memory_of is None:  # else a preflight has chosen the template, with as many rows as it was told
        check_preflight_rows(options)
    budget = 1
    if options.recipe.max_completion_length is None:
        plain = method_config(options)
        lengths = rows.demonstration_lengths(plain)
        budget = completion_budget(task, lengths, samples=METHODS[options.method].samples)
    config = trainer_config(options, budget)
    anchors = anchor_examples(config.anchor_data) if config.anchor_share else []
    if needs_template(options):
        rows.check_tried(config, files.config)
        pairs = rows.untaught(config, files.config)
    else:
        pairs = rows.pairs(config, files.config)
    anchored = rows.anchors(anchors, config, files.config)
    _check_steps(config, len(pairs))
    if memory_of is not None:
        memory, shortage = memory_of.memory, memory_of.shortage
    else:
        model, adapter = options.recipe.model, options.recipe.adapter
        check = MemoryCheck(
            files.config, [*pairs, *anchored], dtype=model.dtype, lora_r=adapter.lora_r, device=config.device
        )
        memory = check.estimate(config)
        shortage = check.shortage(config, memory)
    return Prepared(
        options=options,
        task=task,
        rows=rows,
        files=files,
        config=config,
        pairs=pairs,
        anchors=anchored,
        memory=memory,
        shortage=shortage,
    )


def require_memory(prepared: Prepared) -> None:
    """Raises UserError where the run would take more memory than there is, unless told to try."""
    if prepared.shortage and not prepared.options.recipe.trainer.skip_memory_check:
        raise UserError(f"{prepared.shortage} --skip_memory_check tries it anyway.")


def _check_steps(config: SDFTConfig, num_rows: int) -> None:
    """Raises UserError where not one step would be taken."""
    if config.dataloader_drop_last and num_rows < config.per_device_train_batch_size:
        raise UserError(
            f"dataloader_drop_last drops the only micro-batch: there are {num_rows} rows, it takes "
            f"{config.per_device_train_batch_size}. Lower per_device_train_batch_size; else nothing is trained."
        )
