"""Progress display of a training run."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from transformers import TrainerCallback

from selfdistill.progress import progress_bar

NO_STEP_LIMIT = 10**9
"""``max_steps`` of a run that ends by another criterion than its number of steps."""


class TrainingProgress(TrainerCallback):
    """Shows steps, loss, tokens per second and time left: as a bar on a terminal, elsewhere as a line every 30 seconds.

    Args:
        console: to print to.
        plain_every: seconds between lines where there is no terminal.
    """

    def __init__(self, console: Console, plain_every: float = 30.0) -> None:
        self._console = console
        self._plain_every = plain_every
        self._bar: Progress | None = None
        self._bar_task: Any = None
        self._last_line = 0.0
        self._last_seen: tuple[float, float] = (0.0, 0.0)
        self._warned = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._last_line = time.monotonic()
        self._warned = False
        if self._console.is_terminal:
            self._bar = progress_bar(self._console)
            self._bar.start()
            total = state.max_steps if state.max_steps < NO_STEP_LIMIT else None
            self._bar_task = self._bar.add_task("training", total=total, completed=state.global_step, note="")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        self._warn_if_nothing_learned(state, logs)
        seen, wall = logs.get("tokens_seen", 0.0), logs.get("wall_seconds", 0.0)
        tokens, seconds = seen - self._last_seen[0], wall - self._last_seen[1]
        self._last_seen = (seen, wall)
        note = f"loss {logs['loss']:.3f}  {tokens / seconds if seconds > 0 else 0:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._bar_task, completed=state.global_step, note=note)
        elif not self._due(state):
            return
        elif state.max_steps >= NO_STEP_LIMIT:
            self._console.print(f"step {state.global_step}  {note}")
        else:
            left = wall / state.global_step * (state.max_steps - state.global_step)
            self._console.print(f"step {state.global_step}/{state.max_steps}  {note}  {left / 60:.1f} min left")

    def _warn_if_nothing_learned(self, state: Any, logs: dict[str, float]) -> None:
        """Prints a warning, once per run, when no token of a step carried loss."""
        if logs.get("loss_tokens") != 0 or self._warned:
            return
        self._warned = True
        self._console.print(
            f"[yellow]Warning:[/yellow] at step {state.global_step} no token carried loss, so nothing was learned: "
            "every completion was truncated and left out (mask_truncated_completions), or is no longer than "
            "num_loss_tokens_to_skip."
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Stops the bar. May be called more than once."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextmanager
    def paused(self) -> Generator[None]:
        """Context in which the bar is stopped, so that another one can use the console."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def _due(self, state: Any) -> bool:
        """True for the first and the last step, and if the last line is old enough; then its time is noted."""
        now = time.monotonic()
        if state.global_step in (1, state.max_steps) or now - self._last_line >= self._plain_every:
            self._last_line = now
            return True
        return False
