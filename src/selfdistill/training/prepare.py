"""Everything about a run that can be determined before its weights are loaded: settings, prompts, lengths, memory."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from selfdistill.data.general import anchor_examples
from selfdistill.errors import UserError
from selfdistill.evaluate.scorer_choice import TaskRows
from selfdistill.method.config import SDFTConfig
from selfdistill.method.memory import MemoryCheck, MemoryEstimate
from selfdistill.method.other_teacher import check_vocabulary, tokenizer_and_config
from selfdistill.method.privileged import feedback_from
from selfdistill.method.sources import uses_answers
from selfdistill.method.teacher_server import teacher_server
from selfdistill.models import loading
from selfdistill.settings import flat
from selfdistill.settings.train import Recipe, TrainOptions, method_config
from selfdistill.tasks.task import Task
from selfdistill.training.rendered import RenderedRows
from selfdistill.training.settings import (
    check_preflight_rows,
    check_scorer,
    completion_budget,
    needs_template,
    trainer_config,
)
from selfdistill.training.success import success_scorer
from selfdistill.types import Example, NamedScorer, PromptPair, Template


class ModelFiles:
    """A model's tokenizer and config, each read once; weights are not loaded.

    Args:
        name: the model, as ``--model_name`` takes it.
        recipe: gives the chat template that replaces the tokenizer's, if there is one, and its variables.

    Raises:
        UserError: there is no such model or tokenizer, the tokenizer has no chat template, or the one that replaces it
            is broken.
    """

    def __init__(self, name: str, recipe: Recipe) -> None:
        self.name = name
        self.tokenizer: PreTrainedTokenizerBase = loading.load_tokenizer(
            name,
            chat_template=recipe.model.chat_template,
            chat_template_kwargs=recipe.prompts.chat_variables("student"),
        )
        loading.require_chat_template(self.tokenizer, name)

    @cached_property
    def config(self) -> Any:
        """The model's transformers config. Raises UserError if the model is not a causal language model."""
        return loading.load_config(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that only needs its model. A copy with other options is made by ``in_folder``, ``with_steps``
    and ``with_template``."""

    options: TrainOptions
    task: Task
    rows: RenderedRows
    files: ModelFiles
    config: SDFTConfig
    pairs: Sequence[PromptPair]
    """Rendered training rows within the length limits; without teacher prompts while ``needs_template``."""
    anchors: Sequence[PromptPair]
    """Rendered anchor prompts; empty if ``anchor_share`` is 0."""
    memory: MemoryEstimate
    teacher_size: float
    """Number of the teacher's weights over that of the model's; 0 for one that a server has."""
    shortage: str | None
    """Message that the run needs more memory than is available, with remedies; None if it fits."""
    scorer: NamedScorer | None = None
    """Tells which completions succeeded; None if nothing asks for it."""
    test: TaskRows | None = None
    """Held-out rows that are scored during the run; None if none are."""

    @property
    def device(self) -> torch.device:
        """Device that the run will use."""
        return self.config.device

    @property
    def needs_template(self) -> bool:
        """True while a preflight has yet to choose the template."""
        return needs_template(self.options)

    def lengths_and_memory(self) -> dict[str, Any]:
        """For ``preflight --json``: lengths of the prompts in tokens, estimated peak memory in bytes, whether it
        fits."""
        roles = {
            "student": [len(pair.student_ids) for pair in self.pairs],
            "teacher": [len(pair.teacher_ids) for pair in self.pairs if pair.teacher_ids is not None],
        }
        tokens = {role: {"median": sorted(n)[len(n) // 2], "longest": max(n)} for role, n in roles.items() if n}
        return {"prompt_tokens": tokens, "peak_memory_bytes": self.memory.peak, "fits": self.shortage is None}

    def in_folder(self, folder: Path) -> "Prepared":
        """The same run with ``folder`` as its output folder."""
        config = copy.copy(self.config)
        config.output_dir = str(folder)
        return replace(self, config=config, options=flat.changed(self.options, {"output_dir": str(folder)}))

    def with_steps(self, max_steps: int) -> "Prepared":
        """The same run with another number of steps."""
        config = copy.copy(self.config)
        config.max_steps = max_steps
        return replace(self, config=config, options=flat.changed(self.options, {"max_steps": max_steps}))

    def with_template(self, template: Template, repeat: int) -> "Prepared":
        """The same run with the template that a preflight chose. Raises UserError if a row is too long with it."""
        options = flat.changed(self.options, {"template": template, "template_repeat": repeat})
        return replace(prepare(options, self.task, self.rows, self.files, had_preflight=True), test=self.test)


def prepare(
    options: TrainOptions,
    task: Task,
    rows: RenderedRows,
    files: ModelFiles,
    *,
    had_preflight: bool = False,
) -> Prepared:
    """Resolves the settings of a run, renders its prompts and estimates its memory, before any weights are loaded.

    Args:
        options: of the run.
        task: the task of the rows, whose token limit bounds the default completion length.
        rows: the training rows.
        files: tokenizer and config of the model.
        had_preflight: a preflight has chosen the template, and used the settings that are for it alone.

    Raises:
        UserError: a setting is unknown, out of range or would be ignored, a prompt is over its limit, or there is no
            such model.
    """
    if not had_preflight:
        check_preflight_rows(options)
        check_scorer(options)
    budget = 1
    if options.recipe.max_completion_length is None:
        plain = method_config(options)
        lengths = [length for length in rows.demonstration_lengths(plain) if length]
        budget = completion_budget(task, lengths, samples=not uses_answers(plain))
    config = trainer_config(options, budget)
    anchors = anchor_examples(config.anchor_data) if config.anchor_share else []
    if needs_template(options):
        _check_preflight(config, rows.examples)
        rows.check_tried(config, files.config)
        pairs = rows.untaught(config, files.config)
    else:
        pairs = rows.pairs(config, files.config)
    scorer = _checked_scorer(options, config, task, rows.examples)
    anchored = rows.anchors(anchors, config, files.config)
    _check_steps(config, len(pairs))
    served = teacher_server(config, files.tokenizer, files.config, pairs)
    check = _memory_check(options, files, chain(pairs, anchored), config)
    memory = check.estimate(config)
    return Prepared(
        options=options,
        task=task,
        rows=rows,
        files=files,
        config=config,
        pairs=pairs,
        anchors=anchored,
        memory=memory,
        teacher_size=check.teacher_size() if served is None else 0.0,
        shortage=check.shortage(config, memory),
        scorer=scorer,
    )


def _checked_scorer(
    options: TrainOptions, config: SDFTConfig, task: Task, rows: Sequence[Example]
) -> NamedScorer | None:
    """The scorer that the settings need; None if they need none. Raises UserError if there is none that can be used, or
    the file of ``feedback_file`` has a fault."""
    if config.feedback_file is not None:
        feedback_from(config.feedback_file)
    if config.demonstration_from == "row":
        return None
    return success_scorer(task, options.watch.scorer, rows)


def _check_preflight(config: SDFTConfig, rows: Sequence[Example]) -> None:
    """Raises UserError if a preflight can't choose the template: with another model as teacher, or a row that has no
    demonstration to show."""
    if config.has_other_teacher:
        name = "teacher_model" if config.teacher_server is None else "teacher_server"
        raise UserError(
            f"--template auto: its preflight knows the student as its own teacher, and no --{name}. Name a template."
        )
    if lacking := next((row for row in rows if not row.demonstration), None):
        raise UserError(
            f"--template auto: its preflight shows the rows' demonstrations, and {lacking.id} has none. Name a "
            "template."
        )


def require_memory(prepared: Prepared) -> None:
    """Raises UserError if the run needs more memory than is available, unless ``--skip_memory_check`` is given."""
    if prepared.shortage and not prepared.options.recipe.trainer.skip_memory_check:
        raise UserError(f"{prepared.shortage} --skip_memory_check tries it anyway.")


def _memory_check(
    options: TrainOptions, files: ModelFiles, pairs: Iterable[PromptPair], config: SDFTConfig
) -> MemoryCheck:
    model, adapter, teacher = options.recipe.model, options.recipe.adapter, None
    if config.teacher_model is not None:
        tokenizer, teacher = tokenizer_and_config(config.teacher_model)
        check_vocabulary(config.teacher_model, files.tokenizer, files.config, tokenizer, teacher)
    return MemoryCheck(
        files.config,
        pairs,
        dtype=model.dtype,
        lora_r=adapter.lora_r,
        device=config.device,
        quantize=model.quantize,
        teacher_config=teacher,
    )


def _check_steps(config: SDFTConfig, num_rows: int) -> None:
    """Raises UserError if no step would be taken."""
    size = config.per_device_train_batch_size * config.world_size
    if config.dataloader_drop_last and num_rows < size:
        raise UserError(
            f"dataloader_drop_last drops the only micro-batch: there are {num_rows} rows, it takes "
            f"{size}. Lower per_device_train_batch_size."
        )
