"""Can self-distillation work here? Asked before any training, on a few rows.

The method needs a model that does better when shown a demonstration. So every way of showing it is
tried: the teacher's answers are scored like the student's own, on training rows. A teacher that is no
better than the student has nothing to teach.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.method.prompts import PromptRenderer, length_limits, make_renderer
from selfdistill.method.rollout.batched import make_engine
from selfdistill.method.rollout.engine import RolloutEngine, Sampling
from selfdistill.method.scoring import token_divergences
from selfdistill.models.loading import eos_token_ids, pad_token_id
from selfdistill.settings.method import MethodConfig
from selfdistill.stats.scores import mcnemar, mean
from selfdistill.tasks.task import Task
from selfdistill.types import Example, Rollout, UserError

TEMPLATES: tuple[tuple[str, int], ...] = (("paper", 1), ("system", 1), ("prior_turn", 1), ("prior_turn", 2))
"""Template and repeat that are tried."""
ALPHA = 0.05
"""Level of the test that the teacher beats the student."""
MEASURED_UP_TO = 0.25
"""docs/evidence.md compares methods on tasks that the student gets right less often than this."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateResult:
    """How one way of showing the demonstration does."""

    name: str
    """``paper``, ``prior_turn x2`` ..."""
    template: str
    repeat: int
    scores: tuple[float | None, ...]
    """The teacher's score on each row; None is unscored."""
    kl_per_token: float
    """Mean KL(teacher||student) in nats per token of the student's own answers; NaN where no row fits."""
    truncated_share: float
    """Share of rows whose teacher prompt is over its limit."""
    prompt_tokens: int
    """Length of the longest teacher prompt."""

    @property
    def accuracy(self) -> float | None:
        """Mean score over scored rows; None where nothing could be scored."""
        return _accuracy(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What was found."""

    base_scores: tuple[float | None, ...]
    """The student's score on each row."""
    student_truncated_share: float
    """Share of rows whose student prompt is over its limit."""
    templates: tuple[TemplateResult, ...]

    @property
    def base_accuracy(self) -> float | None:
        """Mean score of the student; None where nothing could be scored."""
        return _accuracy(self.base_scores)

    @property
    def tells(self) -> bool:
        """False where no answer scored above 0, shown the demonstration or not: then the scorer says nothing."""
        return any(score for scores in (self.base_scores, *(t.scores for t in self.templates)) for score in scores)

    @property
    def best(self) -> TemplateResult:
        """The template to use: highest accuracy; of equals the one that moves the student least.

        Where the scorer says nothing it is prior_turn, the better one in every trial we made.
        """
        if not self.tells:
            return next((t for t in self.templates if t.template == "prior_turn"), self.templates[0])
        return max(self.templates, key=lambda t: (t.accuracy if t.accuracy is not None else -1.0, -t.kl_per_token))

    @property
    def go(self) -> bool:
        """True where the best teacher beats the student by more than chance explains."""
        return self.p_value < ALPHA and (self.best.accuracy or 0) > (self.base_accuracy or 0)

    @property
    def p_value(self) -> float:
        """Exact McNemar test, best teacher against student, two-sided; 1 where nothing could be scored."""
        both = [(a, b) for a, b in zip(self.base_scores, self.best.scores, strict=True) if None not in (a, b)]
        return mcnemar([float(a or 0) for a, _ in both], [float(b or 0) for _, b in both])

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        base, best = self.base_accuracy, self.best.accuracy
        if base is None or best is None or not self.tells:
            return (
                "no answer scored above 0, with or without a demonstration: the scorer can't tell whether "
                f"SDFT can work here; {self.best.name} is the safer template"
            )
        told = f"teacher {best:.0%} vs base {base:.0%} with {self.best.name}"
        if self.go:
            return f"{told}: go"
        if best <= base:
            return f"{told}: the teacher is no better than the student: SDFT has nothing to teach here"
        return f"{told}: the difference may be chance (p = {self.p_value:.2f}); try more rows (--num_rows)"

    @property
    def advice(self) -> str:
        """Which method to take, by what docs/evidence.md measured, and where it measured nothing, how to find out."""
        base = self.base_accuracy
        if self.tells and base is not None and base < MEASURED_UP_TO:
            return (
                f"The student is right in {base:.0%}. On three such tasks a 135M model learned more "
                "in as many steps, and drifted less at the same skill, by SFT with anchor prompts than by SDFT "
                "(docs/evidence.md): try --method sft --anchor_share 0.25, too."
            )
        return "Which method keeps more here is not known: selfdistill compare --methods sdft,sft finds out."

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints, the memory estimate aside."""
        return {
            "base_accuracy": self.base_accuracy,
            "student_truncated_share": self.student_truncated_share,
            "templates": [
                {
                    "name": t.name,
                    "template": t.template,
                    "repeat": t.repeat,
                    "accuracy": t.accuracy,
                    "kl_per_token": None if math.isnan(t.kl_per_token) else t.kl_per_token,
                    "truncated_share": t.truncated_share,
                    "prompt_tokens": t.prompt_tokens,
                }
                for t in self.templates
            ],
            "num_rows": len(self.base_scores),
            "p_value": self.p_value,
            "go": self.go,
            "verdict": self.verdict,
            "advice": self.advice,
            "recommended_template": self.best.name,
        }


def preflight(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: Sequence[Example],
    args: MethodConfig,
    *,
    num_rows: int = 32,
    templates: Sequence[tuple[str, int]] = TEMPLATES,
    engine: RolloutEngine | None = None,
    progress: Progress = lambda _: None,
) -> Preflight:
    """Scores student and teacher on ``num_rows`` training rows, spread over ``examples``, greedily.

    Raises:
        UserError: there are no rows, or none fits the student's length limit.
    """
    step = max(1, len(examples) // num_rows)
    rows = list(examples)[::step][:num_rows]
    limits = length_limits(args, model.config)
    engine = engine or make_engine(model, eos_token_ids(model, tokenizer), pad_token_id(tokenizer))
    sampling = Sampling(max_new_tokens=args.max_completion_length, temperature=0)
    student = make_renderer(list(examples), replace_template(args, "paper", 1), tokenizer)
    prompts = [student.render(row).student_ids for row in rows]
    fits = [len(prompt) <= limits["max_prompt_length"] for prompt in prompts]
    if not any(fits):
        raise UserError("preflight: no row fits --max_prompt_length. Raise it, or shorten the prompts.")
    rows = [row for row, fit in zip(rows, fits, strict=True) if fit]
    progress("the student")
    answers = engine.generate([p for p, fit in zip(prompts, fits, strict=True) if fit], sampling)

    results: list[TemplateResult] = []
    for template, repeat in templates:
        progress(template_name(template, repeat))
        renderer = make_renderer(list(examples), replace_template(args, template, repeat), tokenizer)
        results.append(_try(template, repeat, model, renderer, task, rows, answers, engine, sampling, limits))
    return Preflight(
        base_scores=_scores(task, rows, answers, student),
        student_truncated_share=1 - mean([float(fit) for fit in fits]),
        templates=tuple(results),
    )


def template_name(template: str, repeat: int) -> str:
    """``prior_turn x2``; the repeat is left out where it is 1."""
    return template if repeat == 1 else f"{template} x{repeat}"


def replace_template(args: MethodConfig, template: str, repeat: int) -> MethodConfig:
    """The method's settings with another template."""
    values = {name: getattr(args, name) for name in MethodConfig.__dataclass_fields__}
    return replace(MethodConfig(**values), template=template, template_repeat=repeat, template_file=None)  # type: ignore[arg-type]


def _try(
    template: str,
    repeat: int,
    model: PreTrainedModel,
    renderer: PromptRenderer,
    task: Task,
    rows: list[Example],
    student_answers: list[Rollout],
    engine: RolloutEngine,
    sampling: Sampling,
    limits: dict[str, int],
) -> TemplateResult:
    """One template; rows whose teacher prompt is too long count as unscored."""
    pairs = [renderer.render(row) for row in rows]
    fits = [len(pair.teacher_ids) <= limits["max_teacher_prompt_length"] for pair in pairs]
    kept = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
    answers = engine.generate([pair.teacher_ids for pair in kept], sampling)
    scored = iter(_scores(task, [pair.example for pair in kept], answers, renderer))
    own = [answer for answer, fit in zip(student_answers, fits, strict=True) if fit]
    values = token_divergences(model, model, kept, own, pad_token_id=pad_token_id(renderer.tokenizer))
    return TemplateResult(
        name=template_name(template, repeat),
        template=template,
        repeat=repeat,
        scores=tuple(next(scored) if fit else None for fit in fits),
        kl_per_token=mean([value for tensor in values for value in tensor.tolist()]),
        truncated_share=1 - mean([float(fit) for fit in fits]),
        prompt_tokens=max(len(pair.teacher_ids) for pair in pairs),
    )


def _scores(
    task: Task, rows: Sequence[Example], answers: Sequence[Rollout], renderer: PromptRenderer
) -> tuple[float | None, ...]:
    score = next(iter(task.scorers.values()))
    return tuple(
        score(renderer.completion_text(answer.completion_ids), row) for row, answer in zip(rows, answers, strict=True)
    )


def _accuracy(scores: Sequence[float | None]) -> float | None:
    scored = [score for score in scores if score is not None]
    return mean(scored) if scored else None
