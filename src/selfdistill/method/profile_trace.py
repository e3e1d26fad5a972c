"""``--profile``: writes a profiler trace of a few training steps."""

import gzip
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from torch.profiler import profile, schedule
from transformers import TrainerCallback

TRACE = "trace.json.gz"
STEPS = 3
"""Steps in the trace. A run of several steps first has one step of warm-up that is left out."""


class ProfileTrace(TrainerCallback):
    """Writes ``trace.json.gz`` of steps 2 to 4, or fewer if the run is shorter. Must be the trainer's last callback.

    Args:
        folder: folder to write the trace to.
        console: where the path of the trace is printed.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self._path = folder / TRACE
        self._console = console
        self._profile: profile | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler's library writes to the terminal
        left = state.max_steps - state.global_step
        steps = schedule(wait=0, warmup=1, active=min(STEPS, left - 1), repeat=1) if left > 1 else None
        self._profile = profile(schedule=steps, on_trace_ready=self._write)
        self._profile.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._profile is not None:
            self._profile.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _write(self, finished: profile) -> None:
        with tempfile.TemporaryDirectory(dir=self._path.parent, prefix=f".{TRACE}.") as folder:
            plain, small = Path(folder, "trace.json"), Path(folder, TRACE)
            finished.export_chrome_trace(str(plain))  # torch can compress it too, but far more slowly
            with plain.open("rb") as source, gzip.open(small, "wb", compresslevel=3) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            os.replace(small, self._path)
        self._console.print(f"Trace: {escape(str(self._path))}. Open it at ui.perfetto.dev.")
