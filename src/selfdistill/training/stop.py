"""A run that is told to stop finishes its step and saves a checkpoint."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl

from selfdistill.errors import StoppedError, TerminatedError
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.signals import handled

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stoppable(trainer: SDFTTrainer, console: Console) -> Generator[None]:
    """Context in which SIGINT or SIGTERM ends the training of ``trainer`` after its present step, once a checkpoint is
    saved. A second signal ends it at once. In a thread other than the first one signals do what they did.

    Raises:
        StoppedError: it was ended so.
        KeyboardInterrupt, TerminatedError: there was a second signal, or one when the last step was done.
    """
    callback = _Stop(trainer, console)
    trainer.callback_handler.callbacks.insert(0, callback)  # before the processes agree on what they were asked for
    try:
        with handled(callback.receive, *SIGNALS):
            yield
    finally:
        trainer.remove_callback(callback)
    callback.check()


class _Stop(TrainerCallback):
    def __init__(self, trainer: SDFTTrainer, console: Console) -> None:
        self._trainer, self._console = trainer, console
        self._received: signal.Signals | None = None

    def receive(self, number: int, frame: object) -> None:
        if self._received is not None:
            raise _exception(number)
        self._received = signal.Signals(number)
        self._console.print(f"{self._received.name}: the step is finished and saved. Once more ends the run at once.")

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        if self._received is not None:
            control.should_save = control.should_training_stop = True

    def on_save(self, *_: Any, **__: Any) -> None:
        if (stop := self._received) is not None:
            step = self._trainer.state.global_step
            going_on = "the same command goes on from it"
            if self._trainer.args.save_only_model:
                going_on = "no run goes on from it, since it holds only the model (save_only_model)"
            raise StoppedError(
                f"Stopped by {stop.name} after step {step}. checkpoint-{step} is saved; {going_on}.", stop
            )

    def check(self) -> None:
        """Raises what a signal raises if one came when no step was left to finish."""
        if self._received is not None:
            raise _exception(self._received)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else TerminatedError()
