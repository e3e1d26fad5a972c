"""SDFTTrainer: the adapter between ``step.Step`` and transformers' Trainer. The mathematics is in ``step``.

In a training step transformers' loop calls, in this order: ``get_batch_samples`` (rollouts), ``training_step`` (forward
and backward pass, once per micro-batch), ``_clip_grad_norm``, ``_get_grad_norm``, the optimizer (whose hook copies the
masters to the model), and the callback's ``on_step_end`` (teacher update). Some of these hooks are private, so training
stops if transformers does not call one of them (``hooks``).

With several processes (``processes``) all of them make the same calls: each has the rows of the whole step, and
``Step`` takes its share of them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
)

from selfdistill.checkpoints.commit import install, tidy
from selfdistill.checkpoints.lock import locked
from selfdistill.errors import NumbersError
from selfdistill.method.accelerator import leave_replicas_alone
from selfdistill.method.accepted import check_arguments, loaded
from selfdistill.method.batch import MicroBatch
from selfdistill.method.collapse import remedy
from selfdistill.method.config import SDFTConfig
from selfdistill.method.evaluating import EvaluatingTrainer
from selfdistill.method.fingerprints import check_same_run
from selfdistill.method.hooks import Hooks, StepCallback
from selfdistill.method.optimizers import make_optimizer, optimizer_name
from selfdistill.method.other_teacher import named_teacher
from selfdistill.method.out_of_memory import Pieces
from selfdistill.method.processes import Processes
from selfdistill.method.rollout.copies import weight_warning
from selfdistill.method.rollout.engine import InProcessEngine, RolloutEngine
from selfdistill.method.rows import Rows, anchor_pairs, held_out_pairs, training_pairs
from selfdistill.method.run_log import RunLog
from selfdistill.method.run_record import run_record
from selfdistill.method.save_size import check_save_space
from selfdistill.method.skipping import Skipping
from selfdistill.method.step import Step
from selfdistill.method.teacher_server import teacher_server
from selfdistill.method.timer import PhaseTimer
from selfdistill.method.trackers import Tracked
from selfdistill.method.trainer_state import Checkpoints
from selfdistill.models.attention import fit_attention
from selfdistill.models.mode import own_checkpointing
from selfdistill.models.saving import save_model
from selfdistill.models.tokens import eos_token_ids
from selfdistill.types import NamedScorer, PromptPair


class SDFTTrainer(EvaluatingTrainer):
    """transformers' Trainer for self-distillation and related methods.

    Args:
        model: a causal language model in the dtype to compute in, or a name to load (see ``models.loading``).
            Trainable weights are updated in fp32 in either case.
        args: the settings.
        train_dataset: rows with a prompt and a demonstration: Examples, or a ``datasets.Dataset`` or list of dicts in
            any schema of ``data.rows`` ({prompt, demonstration}, TRL's {prompt, privileged_context}, ...). PromptPairs
            are used as they are. An IterableDataset is read to its end first, since rows are shuffled.
        processing_class: the model's tokenizer; by default loaded with the model if that is a name.
        eval_dataset: held-out rows in the same forms, or several sets by name, whose loss ``evaluate`` measures, while
            training as ``args.eval_strategy`` says.
        peft_config: LoRA (or another adapter) to put on the model.
        anchor_dataset: general prompts, in the same forms; needed if ``args.anchor_share`` is above 0.
        scorer: a name, by which a resumed run is compared, and the function that tells which completions succeeded;
            needed if ``args.demonstration_from`` is ``own_success``.
        base_weights: weights by parameter name that the teacher starts from and the start model has; by default the
            model's own. ``method="reinvoke"`` needs them.
        engine: samples completions; by default the engine that ``args.rollout_engine`` names.
        facts: values of ``model_name``, ``task``, ``dataset`` and ``chat_template`` for run_config.json.
        callbacks: as in Trainer.
        compute_metrics: makes metrics of an evaluation's answers: ``predictions`` are the greedy completions of the
            held-out rows as a list of texts, ``label_ids`` their demonstrations, empty where there is none.

    In a script that ``torchrun`` or ``accelerate launch`` starts, every process makes the same trainer and the same
    calls. The main process alone writes, into a folder that all of them can read.

    Raises:
        UserError: a row, the model or a setting is unusable, or a row is too long.
        TypeError: ``args`` is no SDFTConfig.
        ValueError: anchor prompts, base weights or a scorer are missing.
    """

    _weights: dict[str, Tensor] | None = None
    """While a model that is split is saved: its whole weights."""

    def __init__(
        self,
        model: PreTrainedModel | str,
        args: SDFTConfig,
        train_dataset: Rows,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        eval_dataset: Rows | Mapping[str, Rows] | None = None,
        peft_config: PeftConfig | None = None,
        anchor_dataset: Rows = (),
        scorer: NamedScorer | None = None,
        base_weights: Mapping[str, Tensor] | None = None,
        engine: RolloutEngine | None = None,
        facts: Mapping[str, str] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
    ) -> None:
        check_arguments(args, train_dataset, eval_dataset, model)
        student, tokenizer = loaded(model, args, processing_class, peft_config)
        own: Any = (args, tokenizer, student.config)
        train_pairs, anchors = training_pairs(train_dataset, *own), anchor_pairs(anchor_dataset, *own)
        self._hooks, use_cache = Hooks(), getattr(student.config, "use_cache", None)
        super().__init__(
            model=student,
            args=args,
            train_dataset=train_pairs,  # type: ignore[arg-type]  # a list is a map-style dataset
            eval_dataset=held_out_pairs(eval_dataset, *own),
            processing_class=tokenizer,
            data_collator=list,  # type: ignore[arg-type]
            callbacks=[*(callbacks or ()), StepCallback(self)],
            compute_metrics=compute_metrics,
        )
        if use_cache is not None:
            student.config.use_cache = use_cache  # transformers sets it to False, and would save it so
        self.remove_callback(PrinterCallback)  # would print every log line
        fit_attention(student)
        self.processes, self.timer = Processes.here(args.device), PhaseTimer(args.device)
        leave_replicas_alone(self.accelerator, self.processes, split=args.shard_weights)
        step = self.step = Step(
            student,
            tokenizer,
            args,
            anchors=anchors,
            rows=train_pairs,
            scorer=scorer,
            base_weights=base_weights,
            teacher_model=named_teacher(args, student, tokenizer),
            teacher_server=teacher_server(args, tokenizer, student.config, train_pairs),
            engine=engine,
            timer=self.timer,
            processes=self.processes,
        )
        self.tokenizer, self.eos_ids = tokenizer, eos_token_ids(student, tokenizer)
        self.run_log = RunLog(Path(str(args.output_dir)), tokenizer, args.rollouts_logged_per_step, self.processes)
        self._loss = torch.zeros((), device=args.device)  # of this process's micro-batches of the step
        step.on_part, self.checkpoints, self.tracked = self.run_log.add_part, Checkpoints(self), Tracked.first_of(self)
        if isinstance(self.step.engine, InProcessEngine):
            self.step.engine.on_warning = self.checkpoints.warn
        self.pieces, self.skipping = Pieces(step, self.checkpoints.warn), Skipping(step.masters, step.sharding)
        self._pairs, self._anchors, self._scorer, self._facts = train_pairs, anchors, scorer, dict(facts or {})

    @property
    def num_rows(self) -> int:
        """Number of training rows."""
        return len(self._pairs)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        *arguments: Any,
        allow_changes: bool = False,
        **options: Any,
    ) -> Any:
        """Trains as transformers' Trainer does, with gradients going to the fp32 masters until it returns or raises.

        A call that does not resume begins metrics.jsonl and rollouts.jsonl anew; those of an earlier call, and its
        checkpoints, are moved to a folder ``earlier-N``.

        Args:
            resume_from_checkpoint: a checkpoint's folder, or True for the newest one in ``output_dir`` that is whole.
            arguments: as Trainer.train takes them.
            allow_changes: resume although settings or data differ from those of the checkpoint, with a warning.
            options: as Trainer.train takes them.

        Raises:
            UserError: no checkpoint is whole, or it was made with other settings or data; another run uses the output
                folder; a checkpoint can't be written or would not fit on the disk; the processes have other settings,
                data or models than the main one, or one of them ended.
            NumbersError: the gradients of three steps in a row were not finite; such a step changes nothing.
            RuntimeError: the installed transformers does not call a hook that this trainer depends on.
        """
        with ExitStack() as stack:
            self.processes.once(partial(self._take_folder, stack))
            self.run_config = run_record(self, self._pairs, self._anchors, self._scorer, self._facts)
            check_same_run(self.processes.gathered(self.run_config))
            self.checkpoints.open(resume_from_checkpoint, self.run_config, allow_changes=allow_changes)
            source = self.checkpoints.source
            if source is None and not self.step.sharding.is_split:  # then they were when they were split
                self.processes.share_weights(self.step.masters)
            self.step.begin()
            self.skipping.begin()
            self._hooks.forget()
            stack.enter_context(self.step.masters.attached())
            stack.enter_context(own_checkpointing(self.model))
            return super().train(None if source is None else str(source), *arguments, **options)

    def _take_folder(self, stack: ExitStack) -> None:
        stack.enter_context(locked(self.run_log.folder))
        tidy(self.run_log.folder)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not self.args.shard_weights:  # otherwise slices are moved as it is split: the whole may not fit
            super()._move_model_to_device(model, device)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of the rows of all processes, in the order in which one process would take them."""
        self._hooks.called("get_train_dataloader")
        batch_size = self._train_batch_size
        self._train_batch_size = batch_size * self.processes.size
        try:
            return super().get_train_dataloader()
        finally:
            self._train_batch_size = batch_size

    # -- the hooks of a step -----------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[PromptPair]], num_batches: int, device: torch.device
    ) -> tuple[list[MicroBatch], None]:
        """Samples completions for all prompts of an optimizer step and returns them as micro-batches."""
        self._hooks.called("get_batch_samples")
        if self.checkpoints.is_finished:
            return [], None
        batches = [pairs for _, pairs in zip(range(num_batches), epoch_iterator, strict=False)]
        self.checkpoints.restore_random()
        if not batches:
            return [], None
        self.checkpoints.step_is_open = True
        self._loss.zero_()
        number = self.state.global_step
        samples = self.step.rollout([pair for batch in batches for pair in batch], number)
        self.run_log.add_samples(number + 1, samples)
        return self.pieces.micro_batches(samples, len(batches)), None

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Runs forward and backward passes of one micro-batch; returns its share of the step's loss.

        Of several processes each returns the whole loss with the last micro-batch, when gradients are added up.
        """
        self._hooks.called("training_step")
        loss = self.pieces.learn(inputs, self.accelerator.backward)
        self.run_log.add_tokens(inputs)
        if self.processes.size == 1:
            return loss
        self._loss += loss
        if not self.accelerator.sync_gradients:
            return torch.zeros_like(loss)
        return self.processes.add_up(self.step.masters, self._loss)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Makes the optimizer that ``args.optim`` names, for the fp32 masters."""
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
            groups = [group for group in groups if group["params"]]
            self.optimizer = make_optimizer(
                optimizer_class, kwargs, optimizer_name(self.args), masters, groups, self.model
            )
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        self._hooks.called("_clip_grad_norm")
        return self.skipping.gradient_norm()  # clipped in ``_get_grad_norm``, once it is known to be finite

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        self._hooks.called("_get_grad_norm")
        norm = self.skipping.gradient_norm() if grad_norm is None else grad_norm
        number, log, largest = self.state.global_step + 1, self.run_log, self.args.max_grad_norm
        try:
            log.skipped_steps += self.skipping.decide(norm, largest, number, log.rows_not_finite, self.checkpoints.warn)
        except NumbersError:
            log.write_rollouts()
            raise
        return norm

    def floating_point_ops(self, inputs: Any) -> int:
        """Floating-point operations of a micro-batch; see ``Step.flops``."""
        return self.step.flops(inputs)

    def begin_run(self) -> None:
        """Called when training begins: checks the free space, writes run_config.json and starts the records."""
        if self.checkpoints.source is not None:
            self._hooks.check_load()
        self.processes.once(partial(check_save_space, self))
        before = self.checkpoints.begin()
        self.timer.reset(before and before.phase_seconds)
        finished = self.checkpoints.is_finished
        for name in self.run_log.begin(self.state.global_step, self.run_config, before, is_finished=finished):
            self.checkpoints.warn(f"{name} has lost lines of steps up to {self.state.global_step}.")

    def end_step(self, control: TrainerControl) -> None:
        """Called after an optimizer step: updates the teacher, writes the step's rollouts and looks for collapse."""
        self._hooks.check(clips=self.args.max_grad_norm > 0)
        self.step.follow(self.state.global_step)
        self.run_log.write_rollouts()
        self.checkpoints.step_is_open = False
        if (seen := self.run_log.collapse) is not None:
            stops = self.args.stop_on_collapse
            ended = f" The run ends after step {self.state.global_step}, as stop_on_collapse says." if stops else ""
            self.checkpoints.warn(f"{seen}.{ended} {remedy(self.args)}")
            control.should_training_stop = control.should_training_stop or stops

    def end_save(self) -> None:
        """Called after a checkpoint was written: checks that it was written here."""
        self._hooks.check_save()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds means, seconds by phase, and tokens and FLOPs so far to ``logs``, and writes them to metrics.jsonl."""
        if "loss" in logs:
            logs |= self.run_log.means()
            logs |= {f"seconds/{name}": seconds for name, seconds in self.timer.drain().items()}
            logs |= {"flos": self.state.total_flos}
            unusual = weight_warning(logs.get("importance_weight"), self.state.global_step)
            self.checkpoints.warn_once("importance weight", unusual)
        if "train_runtime" in logs:
            logs |= self.run_log.of_the_whole_run(logs)
        super().log(logs, start_time)
        if "loss" in logs:
            self.processes.agree(self.control)
        self.run_log.write_metrics(self.state.global_step, logs)

    # -- saving ------------------------------------------------------------------------------------------------------

    def write_model(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Writes the model and its tokenizer as other programs read them. ``weights``: those of one that is split."""
        save_model(self.model, self.tokenizer, self.eos_ids, folder, weights)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer.save_model. All processes must call it."""
        self._weights = self.step.sharding.gather().weights  # older transformers call _save in the main process alone
        super().save_model(output_dir, _internal_call)
        self._weights = None

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.processes.is_main:
            install(Path(output_dir or str(self.args.output_dir)), partial(self.write_model, weights=self._weights))

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        self._hooks.called("_save_checkpoint")
        self.store_flos()
        self.processes.once(partial(self.checkpoints.save, self.checkpoints.parts()))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._hooks.called("_load_from_checkpoint")
        self.checkpoints.load_model()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self._hooks.called("_load_optimizer_and_scheduler")
            self.checkpoints.load_state()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        self.checkpoints.restore_random()
