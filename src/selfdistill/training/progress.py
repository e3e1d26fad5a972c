"""What a person sees of a run while it trains."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from transformers import TrainerCallback

from selfdistill.progress import progress_bar

NO_STEP_LIMIT = 10**9
"""``max_steps`` of a run that something else than the number of its steps ends."""


class TrainingProgress(TrainerCallback):
    """Steps done, loss, tokens per second and time left; a line every 30 seconds where there is no terminal."""

    def __init__(self, console: Console, plain_every: float = 30.0) -> None:
        self._console = console
        self._plain_every = plain_every
        self._bar: Progress | None = None
        self._bar_task: Any = None
        self._last_line = 0.0
        self._last_seen: tuple[float, float] = (0.0, 0.0)
        self._learned = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._last_line = time.monotonic()
        self._learned = True
        if self._console.is_terminal:
            self._bar = progress_bar(self._console)
            self._bar.start()
            total = state.max_steps if state.max_steps < NO_STEP_LIMIT else None
            self._bar_task = self._bar.add_task("training", total=total, completed=state.global_step, note="")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        self._say_where_nothing_is_learned(state, logs)
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

    def _say_where_nothing_is_learned(self, state: Any, logs: dict[str, float]) -> None:
        if logs.get("loss_tokens") != 0 or not self._learned:
            return
        self._learned = False
        self._console.print(
            f"[yellow]Warning:[/yellow] at step {state.global_step} no token carried loss, so nothing was learned: "
            "every completion was cut and left out (mask_truncated_completions), or is shorter than "
            "num_loss_tokens_to_skip."
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar off the screen's last line; safe to call twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextmanager
    def paused(self) -> Generator[None]:
        """Inside, the console is free for another bar."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def _due(self, state: Any) -> bool:
        now = time.monotonic()
        if state.global_step in (1, state.max_steps) or now - self._last_line >= self._plain_every:
            self._last_line = now
            return True
        return False
