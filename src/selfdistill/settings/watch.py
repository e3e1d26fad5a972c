"""Options of ``train`` by which a run is evaluated while it goes on."""

from dataclasses import dataclass

from selfdistill.errors import UserError
from selfdistill.settings.fields import at_least, check_fields, number


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Evaluation during the run, which it does not change."""

    eval_steps: int | None = at_least(1, None)
    """Every N optimizer steps score held-out rows and measure drift from the start model; by default never."""
    eval_rows: int = at_least(1, 64)
    """With eval_steps: number of held-out rows that are scored."""
    drift_prompts: int = number(16, 0, 64, "between 0 and 64, the number there are")
    """With eval_steps: number of general prompts on which drift is measured; 0: it is not."""
    scorer: str | None = None
    """With eval_steps: exact_match, multiple_choice, numeric[:TOLERANCE], regex:PATTERN or path.py:function; by
    default the task's."""

    def check(self) -> None:
        """Checks ranges, and refuses what would be ignored. Raises UserError."""
        check_fields(self)
        if self.eval_steps is not None:
            return
        for name, value in vars(self).items():
            if value != getattr(WatchOptions, name):
                raise UserError(f"--{name} {value} changes nothing without --eval_steps. Leave it out.")
