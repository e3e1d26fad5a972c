"""The trainer's callback, and the check that the installed transformers calls the hooks that our trainer overrides,
some of which are private."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback
from transformers import __version__ as transformers_version

if TYPE_CHECKING:
    from selfdistill.method.trainer import SDFTTrainer


class Hooks:
    """Counts the calls of each hook.

    If transformers stopped calling one, gradients would silently stay unclipped, or checkpoints would lack masters and
    teacher, or a run would go on without them.

    Raises:
        RuntimeError: the installed Trainer lacks one of the hooks.
    """

    IN_A_STEP = ("get_train_dataloader", "get_batch_samples", "training_step", "create_optimizer", "_get_grad_norm")
    LOADING = ("_load_from_checkpoint", "_load_optimizer_and_scheduler")
    OTHERS = ("_clip_grad_norm", "_save_checkpoint", "_save", "_load_rng_state", *LOADING)

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        lacking = [name for name in (*self.IN_A_STEP, *self.OTHERS) if not hasattr(Trainer, name)]
        if lacking:
            raise self._unusable(lacking)

    def forget(self) -> None:
        """Resets the counts for a new run, except that of ``create_optimizer``: an existing optimizer is used again."""
        created = self._counts["create_optimizer"]
        self._counts = Counter(create_optimizer=created)

    def called(self, name: str) -> None:
        """Counts a call of the hook ``name``."""
        self._counts[name] += 1

    def check(self, *, clips: bool) -> None:
        """Raises RuntimeError if a hook has not been called by the end of a step. ``clips``: gradients are clipped."""
        wanted = [*self.IN_A_STEP, *(["_clip_grad_norm"] if clips else [])]
        if lacking := [name for name in wanted if not self._counts[name]]:
            raise self._unusable(lacking)

    def check_save(self) -> None:
        """Raises RuntimeError if a checkpoint was written without calling its hook."""
        if not self._counts["_save_checkpoint"]:
            raise self._unusable(["_save_checkpoint"])

    def check_load(self) -> None:
        """Raises RuntimeError if a resumed training begins without the hooks that load the checkpoint being called."""
        if lacking := [name for name in self.LOADING if not self._counts[name]]:
            raise self._unusable(lacking)

    @staticmethod
    def _unusable(names: list[str]) -> RuntimeError:
        return RuntimeError(
            f"transformers {transformers_version} does not call Trainer.{names[0]}, on which training here depends. "
            "Install a version that selfdistill's tests run with (constraints.txt)."
        )


class StepCallback(TrainerCallback):
    """Tells the trainer when training begins and when a step or a save ends. What a callback of one process asked for,
    all of them do."""

    def __init__(self, trainer: "SDFTTrainer") -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.begin_run()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.end_step(control)
        self._trainer.processes.agree(control)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.processes.postpone(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.processes.agree(control)

    def on_save(self, *_: Any, **__: Any) -> None:
        self._trainer.end_save()
