"""Whether the installed transformers calls the hooks that our trainer overrides, some of which are private."""

from collections import Counter

from transformers import Trainer
from transformers import __version__ as transformers_version


class Hooks:
    """Counts calls: a hook that is never called would leave gradients unclipped, or a checkpoint without masters and
    teacher, without a word.

    Raises:
        RuntimeError: the installed Trainer has not all of them.
    """

    IN_A_STEP = ("get_batch_samples", "training_step", "create_optimizer", "_get_grad_norm")
    OTHERS = ("_clip_grad_norm", "_save_optimizer_and_scheduler", "_load_optimizer_and_scheduler", "_save")

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        lacking = [name for name in (*self.IN_A_STEP, *self.OTHERS) if not hasattr(Trainer, name)]
        if lacking:
            raise self._unusable(lacking)

    def forget(self) -> None:
        """Begins to count anew; an optimizer that is there already is not asked for again."""
        created = self._counts["create_optimizer"]
        self._counts = Counter(create_optimizer=created)

    def called(self, name: str) -> None:
        """Notes that a hook was called."""
        self._counts[name] += 1

    def check(self, *, clips: bool) -> None:
        """Raises RuntimeError where a hook was not called in the step that has just ended."""
        wanted = [*self.IN_A_STEP, *(["_clip_grad_norm"] if clips else [])]
        if lacking := [name for name in wanted if not self._counts[name]]:
            raise self._unusable(lacking)

    def check_save(self) -> None:
        """Raises RuntimeError where a checkpoint was written without its hook."""
        if not self._counts["_save_optimizer_and_scheduler"]:
            raise self._unusable(["_save_optimizer_and_scheduler"])

    @staticmethod
    def _unusable(names: list[str]) -> RuntimeError:
        return RuntimeError(
            f"transformers {transformers_version} does not call Trainer.{names[0]}, on which training here depends. "
            "Install a version that selfdistill's tests run with (constraints.txt)."
        )
