"""Options of ``train`` by which a run is evaluated while it goes on."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from selfdistill.errors import UserError
from selfdistill.settings.fields import at_least, check_fields, number

BEST = {"accuracy": "highest", "drift": "lowest", "leak": "lowest"}
"""What an evaluation during the run measures, and which value is the best."""
RULE = re.compile(r"\s*(\w+)(?:\s+where\s+(\w+)\s*([<>])\s*([-+.\w]+))?\s*")


@dataclass(frozen=True, slots=True)
class KeepRule:
    """Which of a run's evaluations is the best: the one with the best ``metric`` among those that meet a limit."""

    metric: str
    limited: str | None = None
    """Metric that has a limit; None if none has."""
    below: bool = True
    """Whether the limited metric must be below the limit, or else above it."""
    limit: float = 0.0

    @classmethod
    def parsed(cls, text: str) -> "KeepRule":
        """The rule that ``METRIC [where METRIC < NUMBER]`` states; ``>`` likewise. Raises UserError if it is not in
        that form, or there is no such metric."""
        found = RULE.fullmatch(text)
        try:
            metric, limited, sign, limit = found.groups() if found else (None,) * 4
            number = float(limit or 0)
        except ValueError:
            metric, limited, sign, number = None, None, None, 0.0
        if metric not in BEST or (limited is not None and limited not in BEST) or math.isnan(number):
            raise UserError(
                f"--keep_best {text[:60]!r}: write METRIC, or METRIC where METRIC < NUMBER (or >); metrics are "
                f"{', '.join(BEST)}. For example: accuracy where drift < 0.1"
            )
        return cls(metric, limited, sign != ">", number)

    def value(self, measured: Mapping[str, float]) -> float | None:
        """What the rule makes largest, of an evaluation's numbers by metric; None if it can't be the best: it is over
        the limit, or nothing could be scored."""
        value = measured[self.metric] * (1 if BEST[self.metric] == "highest" else -1)
        if math.isnan(value):
            return None
        if self.limited is None:
            return value
        limited = measured[self.limited]
        return value if (limited < self.limit if self.below else limited > self.limit) else None


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Evaluation during the run."""

    eval_steps: int | None = at_least(1, None)
    """Every N optimizer steps score held-out rows and measure drift from the start model; by default never."""
    eval_rows: int = at_least(1, 64)
    """With eval_steps: number of held-out rows that are scored."""
    drift_prompts: int = number(16, 0, 64, "between 0 and 64, the number there are")
    """With eval_steps: number of general prompts on which drift is measured; 0: it is not."""
    eval_answers: int = at_least(0, 4)
    """With eval_steps: number of held-out rows whose answers are kept for the report, also before the first step."""
    scorer: str | None = None
    """With eval_steps, template=auto or demonstration_from=own_success: exact_match, multiple_choice,
    numeric[:TOLERANCE], regex:PATTERN or path.py:function; by default the task's."""
    keep_best: str | None = None
    """With eval_steps: save the model of the best evaluation, not of the last step. "accuracy where drift < 0.1": the
    most accurate one of those with less drift; metrics are accuracy, drift, leak."""
    stop_after: int | None = at_least(1, None)
    """With keep_best: end the run after N evaluations in a row that are no better."""

    def check(self, *, scores_completions: bool = False) -> None:
        """Checks ranges, and refuses what would be ignored. ``scores_completions``: whether training itself has a use
        for the scorer. Raises UserError."""
        check_fields(self)
        if self.stop_after is not None and self.keep_best is None:
            raise UserError(f"--stop_after {self.stop_after} changes nothing without --keep_best. Leave it out.")
        if self.eval_steps is not None:
            self._check_rule()
            return
        for name, value in vars(self).items():
            if value != getattr(WatchOptions, name) and not (name == "scorer" and scores_completions):
                raise UserError(f"--{name} {value} changes nothing without --eval_steps. Leave it out.")

    def _check_rule(self) -> None:
        rule = self.keep_rule
        if rule is not None and not self.drift_prompts and {rule.metric, rule.limited} & {"drift", "leak"}:
            raise UserError(f"--keep_best {self.keep_best!r} needs drift, which --drift_prompts 0 leaves out.")

    @property
    def keep_rule(self) -> KeepRule | None:
        """The rule of ``keep_best``; None without. Raises UserError if it is not in its form."""
        return None if self.keep_best is None else KeepRule.parsed(self.keep_best)
