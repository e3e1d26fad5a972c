"""The benchmarks by name. A new one is one file that ends in a TASK, and one line here."""

import os
from pathlib import Path

from selfdistill.errors import UserError, did_you_mean
from selfdistill.tasks import assistant_tools, medical, office, science, tooluse, wiki
from selfdistill.tasks.task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (assistant_tools.TASK, *office.TASKS, tooluse.TASK, science.TASK, medical.TASK, wiki.TASK)
}
DATA_VARIABLE = "SELFDISTILL_DATA"
"""Environment variable that names the folder of the benchmarks' data."""


def get_task(name: str) -> Task:
    """The task of that name. Raises UserError, with the name that was probably meant, if there is none."""
    if name not in TASKS:
        raise UserError(
            f"Unknown dataset name {name!r}.{did_you_mean(name, TASKS)} Known: {', '.join(TASKS)}; "
            "your own data go to --dataset_path."
        )
    return TASKS[name]


def resolve_data_dir(data_dir: str | None) -> Path | None:
    """The folder of the benchmarks' data: ``data_dir``, else the environment variable SELFDISTILL_DATA, else ``./data``
    if it exists, else None. Raises UserError if the folder that the flag or the variable names does not exist."""
    for name, value in (("--data_dir", data_dir), (DATA_VARIABLE, os.environ.get(DATA_VARIABLE))):
        if value:
            path = Path(value).expanduser()
            if not path.is_dir():
                raise UserError(
                    f"{name} is {value!r}, which is not a folder: name the one that holds tooluse_data or science_data."
                )
            return path
    default = Path("data")
    return default if default.is_dir() else None
