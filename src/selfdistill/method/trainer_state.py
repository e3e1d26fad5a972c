"""The checkpoints of a trainer: everything from which a stopped run goes on as if it had never stopped.

A checkpoint holds the model as other programs read it, transformers' ``trainer_state.json``, and in ``state/`` the
rest: the masters' lower bits, the teachers, the optimizer with its schedule, the random numbers, what the records had
added up, and the run's settings. No file is a pickle. A checkpoint is made after a finished optimizer step only.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.data_loader import SeedableRandomSampler
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers.trainer_callback import ExportableState

from selfdistill import run_folder
from selfdistill.checkpoints.commit import commit
from selfdistill.checkpoints.find import newest_valid, number_of, retain, set_aside
from selfdistill.checkpoints.manifest import DamagedError, verify
from selfdistill.errors import DamagedFilesError, DiskError, UserError, brief
from selfdistill.method.fingerprints import changes, in_words, order_of
from selfdistill.method.random_state import random_state, restore_random_state
from selfdistill.method.sharded import load_split_adapter
from selfdistill.method.slices import local, split_as, split_states, whole_tree
from selfdistill.method.state_tree import load_tree, save_tree
from selfdistill.records.runs import RunConfig, RunState

if TYPE_CHECKING:
    from selfdistill.method.trainer import SDFTTrainer

FIXED = ("optim", "optim_args", "dtype", "model config")
"""What can't differ even where changes are allowed, since a checkpoint would not fit."""


def warn(text: str) -> None:
    """Warns a caller of the Python API."""
    warnings.warn(text, stacklevel=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The tensors of a checkpoint, whole."""

    weights: dict[str, Tensor] | None
    """The model's, if it is split; None if it holds them itself."""
    masters: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    teachers: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    optimizer: dict[str, Any] = field(default_factory=dict[str, Any])


class Checkpoints:
    """Writes and reads the checkpoints of a trainer.

    ``source`` is the checkpoint that the current training goes on from, None for one from the start.
    """

    def __init__(self, trainer: "SDFTTrainer") -> None:
        self._trainer = trainer
        self.on_warning: Callable[[str], None] = warn
        self.source: Path | None = None
        self.step_is_open = False
        """Whether rows of a step were drawn and its optimizer step is yet to come: then nothing is saved."""
        self._verified: set[str] = set()
        self._warned_of: set[str] = set()
        self._before: RunState | None = None
        self._changed: dict[str, tuple[str, str]] = {}
        self._random: dict[str, Any] | None = None  # to be restored before the next rollout

    # -- where a training goes on ------------------------------------------------------------------------------------

    def open(self, resume_from: str | bool | None, config: RunConfig, *, allow_changes: bool) -> None:
        """Chooses the checkpoint to go on from, and compares its settings and data with those of this run.

        Args:
            resume_from: a checkpoint's folder; True for the newest good one; None or False for the start.
            config: of this run.
            allow_changes: warn of differences instead of refusing them.

        Raises:
            UserError: there is no good checkpoint, or it was made with other settings or data.
        """
        self.source, self._before, self._random, self.step_is_open = None, None, None, False
        self._changed, self._verified, self._warned_of = {}, set(), set()
        if not resume_from:
            return
        self.source = self._trainer.processes.once(
            lambda: self._newest() if resume_from is True else _verified(Path(str(resume_from)))
        )
        self._verified.add(self.source.name)
        state = self.source / run_folder.STATE
        if not (state / run_folder.RUN_STATE).is_file():
            raise UserError(f"{self.source} holds only the model (save_only_model), so no run can go on from it.")
        before = run_folder.read_record(state / run_folder.RUN_CONFIG, RunConfig)
        self._before = run_folder.read_record(state / run_folder.RUN_STATE, RunState)
        self._changed = changes(before, config)
        if self._changed and not allow_changes:
            raise UserError(
                f"{self.source} was made with {in_words(self._changed)}. Resume with the same, or give --allow_changes."
            )
        for name in sorted(before.versions.keys() & config.versions.keys()):
            if (old := before.versions[name]) != (new := config.versions[name]):
                self.warn(f"{self.source.name} was made with {name} {old}, this is {new}: results may differ.")
        for name, (old, new) in self._changed.items():
            self.warn(f"{name} was {old} until step {number_of(self.source)}, from now on it is {new}.")

    def _newest(self) -> Path:
        folder = self._trainer.run_log.folder
        found = newest_valid(folder)
        if found.newest is None and not found.damaged:
            raise UserError(f"{folder} holds no checkpoint to resume from. Start without resume_from_checkpoint.")
        if found.newest is None:
            raise DamagedFilesError(
                f"{folder} holds no whole checkpoint. {found.damaged[0]}. Start anew in another folder."
            )
        for damaged in found.damaged:
            self.warn(f"{damaged}. The run goes on from {found.newest.name}.")
        return found.newest

    def warn(self, text: str) -> None:
        """Warns the user, in the main process."""
        if self._trainer.processes.is_main:
            self.on_warning(text)

    def warn_once(self, kind: str, text: str | None) -> None:
        """Warns the user the first time that there is a text of this kind."""
        if text is not None and kind not in self._warned_of:
            self._warned_of.add(kind)
            self.warn(text)

    @property
    def is_finished(self) -> bool:
        """Whether the checkpoint is that of the last step, so that nothing is left to train."""
        return self.source is not None and self._trainer.state.global_step >= self._trainer.state.max_steps

    def begin(self) -> RunState | None:
        """Called when training begins: restores what transformers sets to zero, and sets aside what is not of this run.

        Returns:
            What the run had used up and added up so far; None at the start.

        Raises:
            UserError: the rows come in another order than before, or a checkpoint that may go can't be deleted.
        """
        trainer, before = cast(Any, self._trainer), self._before
        trainer.processes.once(self._clear_up)
        if before is None:
            return None
        trainer._tr_loss.fill_(_number(before.loss))
        trainer._total_loss_scalar = _number(before.total_loss)
        trainer._globalstep_last_logged = before.last_logged
        trainer._initial_global_step = 0  # so that the mean loss at the end is that of all steps
        sampler = self._sampler()
        if not self._changed and isinstance(sampler, SeedableRandomSampler) and before.sampler_seed is not None:
            sampler.initial_seed = before.sampler_seed
        if not self._changed and self._next_rows(before.epoch, before.micro_batch) != before.next_rows:
            raise UserError(
                f"{self.source}: the training rows come in another order than before it. Resume with the versions of "
                "torch and accelerate that it was made with, or give --allow_changes."
            )
        return before

    def _clear_up(self) -> None:
        """Sets aside what is not of this run, and deletes the checkpoints that are over the limit."""
        trainer = self._trainer
        records = () if self.source else run_folder.GROWING
        set_aside(trainer.run_log.folder, trainer.state.global_step, records, beside=(run_folder.RUN_CONFIG,))
        if self._before is None:
            return
        try:
            self._retain()  # a run that was killed may not have come to it
        except OSError as error:
            raise DiskError(f"{trainer.run_log.folder}: an old checkpoint can't be deleted: {brief(error)}.") from error

    def restore_random(self) -> None:
        """Restores the random numbers once, when the rows of the first step are drawn and before it samples."""
        if self._random is not None:
            restore_random_state(self._random)
            self._random = None

    # -- the order of the rows ---------------------------------------------------------------------------------------

    def _sampler(self) -> Any:
        loader: Any = self._trainer.callback_handler.train_dataloader
        return loader.batch_sampler.sampler

    def _place(self) -> tuple[int, int]:
        """Finished passes over the rows, and micro-batches used of the current one."""
        loader: Any = self._trainer.callback_handler.train_dataloader
        accumulated = self._trainer.args.gradient_accumulation_steps
        epoch, steps = divmod(self._trainer.state.global_step, max(-(-len(loader) // accumulated), 1))
        return epoch, steps * accumulated

    def _next_rows(self, epoch: int, micro_batch: int) -> str:
        """Hash of the places of the rows that the rest of a pass takes; empty if nothing is known of them."""
        sampler = self._sampler()
        if isinstance(sampler, SeedableRandomSampler):
            sampler = cast(Any, copy.copy(sampler))  # the generator of the one in use stays as it is
            sampler.generator = None
            sampler.set_epoch(epoch)
        elif not isinstance(sampler, SequentialSampler):
            return ""
        size = self._trainer.args.per_device_train_batch_size * self._trainer.processes.size
        return order_of(list(sampler)[micro_batch * size :])

    # -- writing -----------------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """What a checkpoint holds, whole. All processes must call it; only the main one's is."""
        trainer: Any = self._trainer
        gathered, keep = trainer.step.sharding.gather(), trainer.processes.is_main
        if trainer.args.save_only_model:
            return Parts(weights=gathered.weights)
        return Parts(
            weights=gathered.weights,
            masters={**trainer.step.masters.state_dict(), **gathered.low},
            teachers=whole_tree(teachers_state(trainer), keep=keep),
            optimizer=whole_tree(trainer.optimizer.state_dict(), keep=keep),
        )

    def save(self, parts: Parts) -> None:
        """Commits a checkpoint of the step that was just finished, then deletes those that ``save_total_limit`` leaves
        no place for. Does nothing within a step, and if this very checkpoint is there already.

        Raises:
            UserError: it can't be written.
        """
        trainer = self._trainer
        folder = trainer.run_log.folder / f"{run_folder.CHECKPOINT}{trainer.state.global_step}"
        if self.step_is_open or folder.name in self._verified:
            return
        try:
            trainer.run_log.sync()
            commit(folder, partial(self._write, parts))
            self._verified.add(folder.name)
            self._retain()
        except (OSError, DamagedError) as error:
            raise DiskError(
                f"{folder} can't be written: {brief(error)}. Once that is mended, --resume goes on from the checkpoint "
                "before it."
            ) from error

    def _retain(self) -> None:
        """Deletes the checkpoints that ``save_total_limit`` is over."""
        trainer = self._trainer
        if (limit := trainer.args.save_total_limit) is not None:
            best = trainer.state.best_model_checkpoint
            retain(trainer.run_log.folder, limit, best=Path(best) if best else None, verified=self._verified)

    def _write(self, parts: Parts, folder: Path) -> None:
        trainer: Any = self._trainer
        trainer.write_model(folder, parts.weights)
        if not trainer.args.save_only_model:
            state = folder / run_folder.STATE
            state.mkdir()
            save_file(_contiguous(parts.masters), state / run_folder.MASTERS)
            save_file(_contiguous(parts.teachers), state / run_folder.TEACHER)
            tree = {"optimizer": parts.optimizer, "scheduler": trainer.lr_scheduler.state_dict()}
            save_tree(state, run_folder.OPTIMIZER, tree)
            save_tree(state, run_folder.RANDOM, random_state())
            run_folder.write_json(state / run_folder.RUN_STATE, self._state())
            run_folder.write_json(state / run_folder.RUN_CONFIG, trainer.run_config)
        told = (*trainer.callback_handler.callbacks, trainer.control)
        for callback in (one for one in told if isinstance(one, ExportableState)):
            states, name = trainer.state.stateful_callbacks, type(callback).__name__
            if isinstance(states[name], list):
                states[name].append(callback.state())
            else:
                states[name] = callback.state()
        trainer.state.save_to_json(str(folder / run_folder.TRAINER_STATE))

    def _state(self) -> RunState:
        trainer: Any = self._trainer
        epoch, micro_batch = self._place()
        return trainer.run_log.state(
            phase_seconds=trainer.timer.so_far(),
            loss=trainer._tr_loss.item(),
            total_loss=trainer._total_loss_scalar,
            last_logged=trainer._globalstep_last_logged,
            epoch=epoch,
            micro_batch=micro_batch,
            sampler_seed=getattr(self._sampler(), "initial_seed", None),
            next_rows=self._next_rows(epoch, micro_batch),
        )

    # -- reading -----------------------------------------------------------------------------------------------------

    def load_model(self, checkpoint: Path | None = None) -> None:
        """Gives the model a checkpoint's weights, whatever names they have in its files; by default those of the one
        that the run goes on from."""
        model, folder = cast(Any, self._trainer.model), str(checkpoint or self.source)
        if hasattr(model, "peft_config"):
            (adapter,) = model.active_adapters
            if self._trainer.step.sharding.is_split:
                load_split_adapter(model, adapter, folder)
                return
            model.load_adapter(folder, adapter, is_trainable=True, autocast_adapter_dtype=False)
            return
        dtypes = {parameter.dtype for parameter in model.parameters()}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32  # in which every other one is exact
        saved = type(model).from_pretrained(folder, dtype=dtype).state_dict()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                local(tensor).copy_(local(split_as(tensor, saved[name])))

    def load_state(self) -> None:
        """Restores masters, teachers, optimizer and schedule; the random numbers follow in ``restore_random``.

        Raises:
            UserError: the checkpoint does not fit this run.
        """
        assert self.source is not None
        state = self.source / run_folder.STATE
        try:
            if fixed := [name for name in FIXED if name in self._changed]:
                raise ValueError(f"{fixed[0]} can't be changed on the way")
            self._trainer.step.masters.load_state_dict(load_file(state / run_folder.MASTERS))
            _load_teachers(self._trainer, load_file(state / run_folder.TEACHER))
            self._load_optimizer(load_tree(state, run_folder.OPTIMIZER))
        except ValueError as error:
            raise UserError(
                f"{self.source} is of a run with other settings: {brief(error)}. Resume with the dtype, method, "
                "teacher and optimizer that it was made with."
            ) from error
        self._random = load_tree(state, run_folder.RANDOM)

    def _load_optimizer(self, tree: dict[str, Any]) -> None:
        """Restores optimizer and schedule. Where settings were changed, their new values count: a rate goes on at the
        same place of the new schedule."""
        trainer = cast(Any, self._trainer)
        optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
        own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
        base_rates = list(scheduler.base_lrs)
        split_states(tree["optimizer"], optimizer)
        optimizer.load_state_dict(tree["optimizer"])
        scheduler.load_state_dict(tree["scheduler"])
        if not self._changed or not isinstance(scheduler, LambdaLR):
            return
        scheduler = cast(Any, scheduler)
        scheduler.base_lrs = base_rates
        rates = [base * at(scheduler.last_epoch) for base, at in zip(base_rates, scheduler.lr_lambdas, strict=True)]
        for group, settings, rate in zip(optimizer.param_groups, own, rates, strict=True):
            group |= {**settings, "lr": rate}
        scheduler._last_lr = rates


def _verified(checkpoint: Path) -> Path:
    try:
        verify(checkpoint)
    except DamagedError as error:
        raise DamagedFilesError(f"{checkpoint}: {error}. Resume from another checkpoint.") from error
    return checkpoint


def _teachers(trainer: "SDFTTrainer") -> dict[str, Any]:
    """Teachers by role, without duplicates: anchor prompts and other rows may share one teacher."""
    distinct: dict[str, Any] = {}
    for role, teacher in trainer.step.teachers.items():
        if not any(teacher is other for other in distinct.values()):
            distinct[role] = teacher
    return distinct


def teachers_state(trainer: "SDFTTrainer") -> dict[str, Tensor]:
    return {
        f"{role}/{name}": tensor
        for role, teacher in _teachers(trainer).items()
        for name, tensor in teacher.state_dict().items()
    }


def _load_teachers(trainer: "SDFTTrainer", state: dict[str, Tensor]) -> None:
    """Restores the teachers. Raises ValueError if the checkpoint has others than this run."""
    teachers = _teachers(trainer)
    if odd := {key.partition("/")[0] for key in state} - teachers.keys():
        raise ValueError(f"this run has no frozen or ema {min(odd)}")
    for role, teacher in teachers.items():
        teacher.load_state_dict({k.removeprefix(f"{role}/"): t for k, t in state.items() if k.startswith(f"{role}/")})


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _number(value: float | None) -> float:
    """JSON has no NaN: it is written as null."""
    return float("nan") if value is None else value
