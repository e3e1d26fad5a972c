"""Options of ``data``."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from selfdistill.errors import UserError
from selfdistill.settings.fields import check_fields, data, path
from selfdistill.settings.rows import RowOptions


@dataclass(frozen=True, kw_only=True)
class DataCommandOptions:
    """Show what is understood of your rows: format, lengths, duplicates, overlap, bad rows, an example.

    Every row of every source is read, whatever its weight. The exit code is 2 if no row can be used.
    """

    files: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Files, folders, patterns or Hub ids, as --dataset_path takes them."""
    eval_path: str | None = data()
    """Evaluation rows to compare with; by default the evaluation split of a folder that has one."""
    model_name: str | None = path()
    """Model whose tokenizer counts and renders; by default the embedded model, if it is on this machine, else none."""
    json: bool = False
    """Print one JSON object and nothing else."""
    rows: RowOptions = RowOptions(on_bad_row="skip")

    def check(self) -> None:
        """Checks what can be checked before anything is read. Raises UserError."""
        check_fields(self)
        if not self.files:
            raise UserError("Name your rows, as in: selfdistill data rows.jsonl")
        self.rows.check(own=True, eval_path=self.eval_path)
