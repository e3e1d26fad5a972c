"""How a person's own rows are read."""

from dataclasses import dataclass

from selfdistill.errors import UserError
from selfdistill.settings.fields import SMALL, check_fields, number
from selfdistill.types import OnBadRow


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """How your own rows are read."""

    columns: str | None = None
    """Which of your columns is what, as prompt=question,demonstration=answer; others are then not read."""
    split: str | None = None
    """Split of the data; by default train to train on, and test (or validation, valid, eval, dev) to evaluate on."""
    eval_share: float | None = number(None, SMALL, 1 - SMALL, "above 0 and below 1")
    """Share of the rows, chosen by their prompts' hashes, that is evaluated on and never trained on."""
    on_bad_row: OnBadRow = "error"
    """error: stop at the first row that can't be used. skip: leave such rows out, and say how many."""

    def check(self, *, own: bool, eval_path: str | None = None) -> None:
        """Checks values, and refuses what would be ignored.

        Args:
            own: whether there are rows of the person's own.
            eval_path: evaluation rows that were named beside the training rows.

        Raises:
            UserError: a value is out of range or not in its form, or there are no rows that it could be for.
        """
        check_fields(self)
        self.column_map()
        for name, value in vars(self).items():
            if not own and value != getattr(RowOptions, name):
                raise UserError(f"--{name} goes with --dataset_path; a named task has rows of its own. Leave it out.")
        if self.eval_share is not None and eval_path is not None:
            raise UserError("--eval_share and --eval_path exclude each other: give one of them.")

    def column_map(self) -> dict[str, str]:
        """The person's columns by our names; empty if ``columns`` is not given. Raises UserError if it is not in the
        form ``ours=theirs,ours=theirs``, or names one of ours twice."""
        pairs: dict[str, str] = {}
        for pair in (self.columns or "").split(",") if self.columns is not None else ():
            ours, equals, theirs = (part.strip() for part in pair.partition("="))
            if not (ours and equals and theirs):
                raise UserError(f"--columns {self.columns!r}: write it as prompt=question,demonstration=answer.")
            if ours in pairs:
                raise UserError(f"--columns {self.columns!r} gives {ours} twice. Keep one.")
            pairs[ours] = theirs
        return pairs

    def changed(self) -> dict[str, str]:
        """The settings that decide which rows there are and that differ from their defaults, as text by name."""
        return {name: str(value) for name, value in vars(self).items() if value != getattr(RowOptions, name)}
