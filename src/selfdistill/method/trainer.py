"""SDFTTrainer: the adapter between ``step.Step`` and transformers' Trainer. Nothing of the mathematics is here.

In a training step transformers' loop calls, in this order: ``get_batch_samples`` (roll out), ``training_step`` (forward
and backward, once for each micro-batch), ``_clip_grad_norm`` and ``_get_grad_norm``, the optimizer (whose hook rounds
the masters back), and the callback's ``on_step_end`` (the teacher follows). Some of these hooks are private; a trainer
that is never asked through one of them stops (``hooks``).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.method.batch import MicroBatch
from selfdistill.method.config import SDFTConfig
from selfdistill.method.hooks import Hooks
from selfdistill.method.needs import deviations
from selfdistill.method.rollout.engine import RolloutEngine
from selfdistill.method.rollout.engines import describe
from selfdistill.method.rows import Rows, anchor_pairs, training_pairs
from selfdistill.method.run_log import RunLog
from selfdistill.method.step import Step
from selfdistill.method.timer import PhaseTimer
from selfdistill.models.attention import fit_attention
from selfdistill.models.cpu import prepare_cpu
from selfdistill.models.loading import load_model, load_tokenizer, require_chat_template
from selfdistill.models.output_head import check_head
from selfdistill.models.saving import ready_to_save
from selfdistill.models.tokens import eos_token_ids
from selfdistill.records.runs import RunConfig, RunState
from selfdistill.types import PromptPair


class SDFTTrainer(Trainer):
    """transformers' Trainer with self-distillation inside.

    Args:
        model: a causal language model in the dtype to compute in, or a name to load (see ``models.loading``).
            Whatever the dtype, trainable weights are updated in fp32.
        args: the settings.
        train_dataset: rows with a prompt and a demonstration: Examples, or a ``datasets.Dataset`` or list
            of dicts in any schema of ``data.rows`` ({prompt, demonstration}, TRL's {prompt, privileged_context}, ...).
            PromptPairs are taken as they are, rendered.
        processing_class: the model's tokenizer; loaded with the model where that is a name.
        peft_config: LoRA (or another adapter) to put on the model.
        anchor_dataset: general prompts, in the same forms, needed where ``args.anchor_share`` is above 0.
        base_weights: what the teacher starts from and anchor prompts are held to, by parameter name; by
            default the model's own weights. ``method="reinvoke"`` needs them.
        engine: what samples completions; by default that of ``args.rollout_engine``.
        facts: what run_config.json is to say of model and data: ``model_name``, ``task``, ``dataset``.
        callbacks: as in Trainer.

    Raises:
        UserError: a row, a length, the model or a setting is unusable.
    """

    args: SDFTConfig
    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel | str,
        args: SDFTConfig,
        train_dataset: Rows,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        peft_config: PeftConfig | None = None,
        anchor_dataset: Rows = (),
        base_weights: Mapping[str, Tensor] | None = None,
        engine: RolloutEngine | None = None,
        facts: Mapping[str, str] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        _check_arguments(args, train_dataset)
        student, tokenizer = _loaded(model, processing_class, peft_config)
        _check_model(student)
        train_pairs = training_pairs(train_dataset, args, tokenizer, student.config)
        anchors = anchor_pairs(anchor_dataset, args, tokenizer, student.config)
        use_cache = getattr(student.config, "use_cache", None)
        self._hooks = Hooks()
        super().__init__(
            model=student,
            args=args,
            train_dataset=train_pairs,  # type: ignore[arg-type]  # a list is a map-style dataset
            processing_class=tokenizer,
            data_collator=list,  # type: ignore[arg-type]
            callbacks=[*(callbacks or ()), _StepCallback(self)],
        )
        if use_cache is not None:  # transformers sets it to False, and would save it so
            student.config.use_cache = use_cache
        if getattr(self.accelerator, "scaler", None) is not None:
            raise UserError("A loss scaler is active: float16 autocast is not used here. Start without it.")
        self.remove_callback(PrinterCallback)  # prints every log line; the records and the progress bar do better
        fit_attention(student)
        self.timer = PhaseTimer(args.device)
        self.step = Step(
            student, tokenizer, args, anchors=anchors, base_weights=base_weights, engine=engine, timer=self.timer
        )
        self.eos_ids = eos_token_ids(student, tokenizer)
        self.run_log = RunLog(Path(str(args.output_dir)), tokenizer, args.rollouts_logged_per_step)
        self.step.on_part = self.run_log.add_part
        self.num_rows = len(train_pairs)
        self._facts = dict(facts or {})
        self._resumed_from: RunState | None = None

    def train(self, *arguments: Any, **options: Any) -> Any:
        """As in Trainer. Gradients go to the fp32 masters from here to the end, however it ends.

        Raises:
            RuntimeError: the installed transformers does not call a hook that this trainer depends on.
        """
        self.step.begin()
        self._hooks.forget()
        self._resumed_from = None
        with self.step.masters.attached():
            return super().train(*arguments, **options)

    # -- the hooks of a step -----------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[PromptPair]], num_batches: int, device: torch.device
    ) -> tuple[list[MicroBatch], None]:
        """All prompts of one optimizer step become micro-batches of completions."""
        self._hooks.called("get_batch_samples")
        batches = [pairs for _, pairs in zip(range(num_batches), epoch_iterator, strict=False)]
        if not batches:
            return [], None
        number = self.state.global_step
        samples = self.step.rollout([pair for batch in batches for pair in batch], number)
        self.run_log.add_samples(number + 1, samples)
        return self.step.micro_batches(samples, len(batches)), None

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one micro-batch."""
        self._hooks.called("training_step")
        loss = self.step.learn(inputs, self.accelerator.backward)
        self.run_log.add_tokens(inputs)
        return loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer that ``args.optim`` names, on the fp32 masters."""
        self._hooks.called("create_optimizer")
        if self.optimizer is None:
            masters = self.step.masters
            decay = set(self.get_decay_parameter_names(self.model))
            groups = [
                {
                    "params": [master for name, _, master in masters.items() if (name in decay) == decayed],
                    "weight_decay": self.args.weight_decay if decayed else 0.0,
                }
                for decayed in (True, False)
            ]
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class([group for group in groups if group["params"]], **kwargs)
            self.optimizer.register_step_post_hook(self._write_back)
        return self.optimizer

    def _write_back(self, *_: Any) -> None:
        self.step.masters.write_back()

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        self._hooks.called("_clip_grad_norm")
        masters = [master for _, _, master in self.step.masters.items()]
        return nn.utils.clip_grad_norm_(masters, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        self._hooks.called("_get_grad_norm")
        if grad_norm is None:
            gradients = [m.grad for _, _, m in self.step.masters.items() if m.grad is not None]
            grad_norm = nn.utils.get_total_norm(gradients)
        return grad_norm

    def floating_point_ops(self, inputs: Any) -> int:
        """See ``Step.flops``."""
        return self.step.flops(inputs)

    def begin_run(self) -> None:
        """Called as training begins."""
        settings = self.args.to_dict()
        config = RunConfig(
            model_name=self._facts.get("model_name") or str(self.model.name_or_path),
            task=self._facts.get("task", ""),
            dataset=self._facts.get("dataset", ""),
            num_training_rows=self.num_rows,
            versions=run_folder.versions(),
            deviations_from_paper=deviations(self.args),
            settings=settings,
            rollout_engine=describe(self.step.engine),
        )
        self.run_log.begin(self.state.global_step, config, self._resumed_from)

    def end_step(self) -> None:
        """Called after the optimizer's step: the teacher follows, the step's rollouts are written."""
        self._hooks.check(clips=self.args.max_grad_norm > 0)
        self.step.follow(self.state.global_step)
        self.run_log.write_rollouts()

    def end_save(self) -> None:
        """Called after a checkpoint was written."""
        self._hooks.check_save()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a step's line: means since the last one, seconds by phase, tokens and FLOPs so far."""
        if "loss" in logs:
            logs |= self.run_log.means()
            logs |= {f"seconds/{name}": seconds for name, seconds in self.timer.drain().items()}
            logs |= {"flos": self.state.total_flos}
        super().log(logs, start_time)
        self.run_log.write_metrics(self.state.global_step, logs)

    # -- saving ------------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with ready_to_save(self.model, self.eos_ids):
            super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self._hooks.called("_save_optimizer_and_scheduler")
            folder = Path(output_dir)
            states = {run_folder.MASTERS: self.step.masters.state_dict(), run_folder.TEACHER: self._teachers_state()}
            for name, state in states.items():
                save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / name)
            run_folder.write_json(folder / run_folder.RUN_STATE, self.run_log.state())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            folder = Path(checkpoint)
            self.step.masters.load_state_dict(load_file(folder / run_folder.MASTERS))
            state = load_file(folder / run_folder.TEACHER)
            for role, teacher in self._distinct_teachers().items():
                own = {key.removeprefix(f"{role}/"): t for key, t in state.items() if key.startswith(f"{role}/")}
                teacher.load_state_dict(own)
            self._resumed_from = run_folder.read_record(folder / run_folder.RUN_STATE, RunState)

    def _distinct_teachers(self) -> dict[str, Any]:
        """Teachers by role, each once: anchors may be held to the very teacher of the other rows."""
        found: dict[str, Any] = {}
        for role, teacher in self.step.teachers.items():
            if not any(teacher is other for other in found.values()):
                found[role] = teacher
        return found

    def _teachers_state(self) -> dict[str, Tensor]:
        return {
            f"{role}/{name}": tensor
            for role, teacher in self._distinct_teachers().items()
            for name, tensor in teacher.state_dict().items()
        }


class _StepCallback(TrainerCallback):
    """Tells the trainer when training begins, and when a step or a save ends."""

    def __init__(self, trainer: SDFTTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.begin_run()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._trainer.end_step()

    def on_save(self, args: Any, *_: Any, **__: Any) -> None:
        if not args.save_only_model:
            self._trainer.end_save()


def _check_arguments(args: Any, rows: Any) -> None:
    if not isinstance(args, SDFTConfig):
        raise TypeError(f"args must be a SDFTConfig, not {type(args).__name__}")
    args.use_one_device()
    if isinstance(rows, Mapping):
        raise UserError(f"train_dataset is a mapping of {', '.join(map(str, rows))}. Give one split of it.")
    if rows is None or isinstance(rows, str | bytes):
        raise UserError("train_dataset: give rows, such as a datasets.Dataset or a list of dicts.")


def _check_model(model: PreTrainedModel) -> None:
    """Raises UserError for a model that the step can't train rightly."""
    adapters: dict[str, Any] = getattr(model, "peft_config", None) or {}
    for adapter in adapters.values():
        if adapter.is_prompt_learning or getattr(adapter, "alora_invocation_tokens", None):
            raise UserError(
                f"The adapter {adapter.peft_type.value} acts through the wrapper's own forward pass, which training "
                "here does not use: it would learn nothing. Take LoRA without alora_invocation_tokens."
            )
    check_head(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("No weight of the model is trainable: call model.requires_grad_(True), or give peft_config.")
    places = set((getattr(model, "hf_device_map", None) or {}).values())
    if len(places) > 1:
        raise UserError(f"The model lies on {len(places)} devices (device_map); training uses one. Load it on one.")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype == torch.float16:
            raise UserError(
                f"{name} is float16, in which most gradients of this loss become 0. Load the model in bfloat16 or "
                "float32."
            )


def _loaded(
    model: PreTrainedModel | str, tokenizer: PreTrainedTokenizerBase | None, peft_config: PeftConfig | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(model, str):
        tokenizer = tokenizer or load_tokenizer(model)
    if tokenizer is None:
        raise UserError("processing_class: give the tokenizer along with a model that is already loaded.")
    student: Any = load_model(model) if isinstance(model, str) else model
    if student.device.type == "cpu":
        prepare_cpu()
    require_chat_template(tokenizer, student.name_or_path)
    if peft_config is not None:
        student = get_peft_model(student, peft_config)
    return cast(PreTrainedModel, student), tokenizer
