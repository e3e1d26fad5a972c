"""What trackers are given beside the numbers that transformers sends them: completions as a table, and the report.

A tracker is one of ``args.report_to``. Its own callback, which transformers adds, begins and ends its run; ``Tracked``
stands before it, so that what it gives arrives while that run is open.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from selfdistill import run_folder
from selfdistill.errors import UserError, brief
from selfdistill.records.runs import RolloutRecord

if TYPE_CHECKING:
    from selfdistill.method.trainer import SDFTTrainer

COLUMNS = ("id", "prompt", "completion", "writer", "finish_reason", "loss_per_token")
NAME = "rollouts"

Rows = list[list[Any]]
"""Values of a table, row by row, in the order of COLUMNS."""


def table_rows(rollouts: Sequence[RolloutRecord]) -> Rows:
    """The table of a step's rollouts. ``loss_per_token`` is the mean in nats; empty if no token counts."""
    found: Rows = []
    for one in rollouts:
        values = [value for value in one.per_token_kl or one.per_token_cross_entropy if value is not None]
        loss = round(fmean(values), 5) if values else None
        found.append([one.id, one.student_prompt, one.completion, one.writer, one.finish_reason, loss])
    return found


class Tracker(NamedTuple):
    """How a tracker takes a table and a report. Both are given its callback."""

    table: Callable[[Any, Rows, int], None]
    """Takes the rows of a step, and the step."""
    report: Callable[[Any, Path], None]
    """Takes the folder with report.html and report.md."""


def _as_markdown(rows: Rows) -> str:
    def cell(value: Any) -> str:
        return "" if value is None else str(value).replace("|", "\\|").replace("\n", "<br>")

    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def _text(folder: Path) -> str:
    return (folder / run_folder.REPORT_TEXT).read_text(encoding="utf-8")


def _page(folder: Path) -> str:
    return str(folder / run_folder.REPORT_PAGE)


def _tensorboard_table(callback: Any, rows: Rows, step: int) -> None:
    callback.tb_writer.add_text(NAME, _as_markdown(rows), step)


def _tensorboard_report(callback: Any, folder: Path) -> None:
    callback.tb_writer.add_text("report", _text(folder))


def _wandb_table(_: Any, rows: Rows, step: int) -> None:
    wandb: Any = importlib.import_module("wandb")
    wandb.run.log({NAME: wandb.Table(columns=list(COLUMNS), data=rows)}, commit=False)  # with the step's numbers


def _wandb_report(_: Any, folder: Path) -> None:
    run: Any = importlib.import_module("wandb").run
    run.log_artifact(_page(folder), name=f"report-{run.id}", type="report")


def _trackio_table(_: Any, rows: Rows, step: int) -> None:
    trackio: Any = importlib.import_module("trackio")
    trackio.log({NAME: trackio.Table(columns=list(COLUMNS), data=rows), "train/global_step": step})


def _trackio_report(_: Any, folder: Path) -> None:
    importlib.import_module("trackio").log_artifact(_page(folder), type="report")


def _mlflow_table(_: Any, rows: Rows, step: int) -> None:
    columns = {name: list(values) for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=True)}
    importlib.import_module("mlflow").log_table(columns, f"{NAME}/step-{step:06}.json")


def _mlflow_report(_: Any, folder: Path) -> None:
    importlib.import_module("mlflow").log_artifact(_page(folder))


def _swanlab_table(_: Any, rows: Rows, step: int) -> None:
    swanlab: Any = importlib.import_module("swanlab")
    swanlab.log({NAME: swanlab.Text(_as_markdown(rows))}, step=step)


def _swanlab_report(_: Any, folder: Path) -> None:
    swanlab: Any = importlib.import_module("swanlab")
    swanlab.log({"report": swanlab.Text(_text(folder))})


TRACKERS = {
    "tensorboard": Tracker(_tensorboard_table, _tensorboard_report),
    "wandb": Tracker(_wandb_table, _wandb_report),
    "trackio": Tracker(_trackio_table, _trackio_report),
    "mlflow": Tracker(_mlflow_table, _mlflow_report),
    "swanlab": Tracker(_swanlab_table, _swanlab_report),
}
"""Those that take more than numbers, by their names in ``report_to``. TensorBoard and SwanLab know no files: they are
given the report's text."""


class Tracked(TrainerCallback):
    """Gives the trackers of a run the completions of each logged step and, at its end, the report.

    A tracker that fails is warned about once, and the run goes on.

    Attributes:
        report: writes the run's report once all steps are done, and returns its folder; by default there is none.
    """

    def __init__(self, trainer: "SDFTTrainer") -> None:
        self.report: Callable[[], Path] | None = None
        self._trainer = trainer
        self._names = [name for name in trainer.args.report_to or () if name in TRACKERS]

    @classmethod
    def first_of(cls, trainer: "SDFTTrainer") -> "Tracked":
        """A new one, which stands before all callbacks that the trainer has."""
        tracked = cls(trainer)
        trainer.callback_handler.callbacks.insert(0, tracked)
        return tracked

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Begins the trackers' runs. Raises UserError if one can't."""
        for name, own in self._callbacks():
            if hasattr(own, "setup") and not own._initialized:
                try:
                    own.setup(args, state, model)
                except Exception as error:
                    raise UserError(
                        f"report_to={name}: it can't begin ({brief(error, 24)}). Set it up, or leave it out."
                    ) from error

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not self._names or "loss" not in (logs or {}):
            return
        if rows := table_rows(self._trainer.run_log.last_rollouts):  # the main process's: the others keep none
            self._each("a table of completions", lambda tracker, own: tracker.table(own, rows, state.global_step))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._names and self.report is not None and state.is_world_process_zero:
            try:
                folder = self.report()
            except Exception as error:  # the model is not saved yet
                text = f"report_to: the report can't be made ({brief(error, 20)}). selfdistill report makes it later."
                self._trainer.checkpoints.warn_once("report", text)
            else:
                self._each("the report", lambda tracker, own: tracker.report(own, folder))

    def _each(self, what: str, give: Callable[[Tracker, Any], None]) -> None:
        for name, own in self._callbacks():
            try:
                give(TRACKERS[name], own)
            except Exception as error:  # whatever the tracker's client raises: no run is lost for it
                text = f"report_to={name}: it did not take {what} ({brief(error, 20)}). The run's folder has all of it."
                self._trainer.checkpoints.warn_once(f"{name}: {what}", text)

    def _callbacks(self) -> list[tuple[str, Any]]:
        """Names of the trackers, with the callbacks that transformers made for them."""
        callbacks = self._trainer.callback_handler.callbacks
        kinds = [(name, INTEGRATION_TO_CALLBACK[name]) for name in self._names]
        return [(name, one) for name, kind in kinds for one in callbacks if isinstance(one, kind)]
