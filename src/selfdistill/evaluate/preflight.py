"""Can self-distillation work here? Asked before any training, on a few rows.

The method needs a model that does better when shown a demonstration. So every way of showing it is
tried: the teacher's answers are scored like the student's own, on training rows. A teacher that is no
better than the student has nothing to teach.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.evaluate.advice import advice
from selfdistill.method.lengths import Limits, length_limits
from selfdistill.method.methods import METHODS
from selfdistill.method.prompts import PromptRenderer, make_renderer
from selfdistill.method.rollout.engine import RolloutEngine, Sampling
from selfdistill.method.rollout.engines import make_engine
from selfdistill.method.scoring import token_divergences
from selfdistill.method.templates import tried_templates
from selfdistill.models.tokens import pad_token_id
from selfdistill.settings.method import MethodConfig, with_template
from selfdistill.stats.paired import LEVEL, PairedTest, paired_test
from selfdistill.stats.scores import mean
from selfdistill.tasks.task import Task
from selfdistill.types import Example, Rollout, Template

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateResult:
    """How one way of showing the demonstration does."""

    template: Template
    repeat: int
    refused: str = ""
    """Why the chat template can't show it; empty where it can."""
    scores: tuple[float | None, ...]
    """The teacher's score on each row; None is unscored."""
    kl_per_token: float
    """Mean KL(teacher||student) in nats per token of the student's own answers; NaN where no row fits."""
    truncated_share: float
    """Share of rows whose teacher prompt is over its limit."""
    prompt_tokens: int
    """Length of the longest teacher prompt."""

    @property
    def name(self) -> str:
        """``paper``, ``prior_turn x2`` ..."""
        return template_name(self.template, self.repeat)

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
        usable = [result for result in self.templates if not result.refused]
        if not self.tells:
            return next((t for t in usable if t.template == "prior_turn"), usable[0])
        return max(usable, key=lambda t: (t.accuracy if t.accuracy is not None else -1.0, -t.kl_per_token))

    @property
    def test(self) -> PairedTest:
        """Best teacher against student on the rows that both have a score for."""
        return paired_test(self.base_scores, self.best.scores)

    @property
    def go(self) -> bool:
        """True where the best teacher beats the student by more than chance explains."""
        return self.test.p_value < LEVEL and (self.best.accuracy or 0) > (self.base_accuracy or 0)

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
        return f"{told}: the difference may be chance (p = {self.test.p_value:.2f}); try more rows (--num_rows)"

    @property
    def advice(self) -> str:
        """Which method to take, by what was measured, and where nothing was, how to find out."""
        return advice(self.base_accuracy if self.tells else None)

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
                    "refused": t.refused,
                }
                for t in self.templates
            ],
            "num_rows": len(self.base_scores),
            "p_value": self.test.p_value,
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
    config: MethodConfig,
    *,
    num_rows: int = 32,
    templates: Sequence[tuple[Template, int]] | None = None,
    engine: RolloutEngine | None = None,
    progress: Progress = lambda _: None,
) -> Preflight:
    """Scores student and teacher on ``num_rows`` training rows, spread over ``examples``, greedily.

    ``templates``: templates and repeats to try; by default those that ``templates.TEMPLATES`` marks.

    Raises:
        UserError: there are no rows, none fits the student's length limit, or the chat template refuses every way of
            showing the demonstration.
    """
    tried = tried_templates() if templates is None else templates
    step = max(1, len(examples) // num_rows)
    rows = list(examples)[::step][:num_rows]
    limits = length_limits(config, model.config, METHODS["sdft"])  # whatever the method, both models answer here
    student = make_renderer(examples, with_template(config, "paper", 1), tokenizer)
    pairs = student.render_all(rows, teacher=False, answers=False)
    kept = [pair for pair in pairs if len(pair.student_ids) <= limits.prompt.tokens]
    if not kept:
        raise UserError("preflight: no row fits --max_prompt_length. Raise it, or shorten the prompts.")
    rows = [pair.example for pair in kept]
    trial = _Trial(
        model=model,
        task=task,
        rows=rows,
        engine=engine or make_engine(model, tokenizer, name=config.rollout_engine),
        sampling=Sampling(max_new_tokens=config.max_completion_length, temperature=0),
        limits=limits,
        renderer=student,
    )
    progress("the student")
    answers = trial.answers([pair.student_ids for pair in kept])
    results: list[TemplateResult] = []
    for template, repeat in tried:
        progress(template_name(template, repeat))
        renderer = make_renderer(examples, with_template(config, template, repeat), tokenizer)
        results.append(trial.teach(template, repeat, renderer, answers))
    if all(result.refused for result in results):
        raise UserError(f"preflight: no template can be shown. {results[0].refused}")
    return Preflight(
        base_scores=trial.scores(rows, answers),
        student_truncated_share=1 - len(kept) / len(pairs),
        templates=tuple(results),
    )


def template_name(template: str, repeat: int) -> str:
    """``prior_turn x2``; the repeat is left out where it is 1."""
    return template if repeat == 1 else f"{template} x{repeat}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What every template is tried with."""

    model: PreTrainedModel
    task: Task
    rows: list[Example]
    engine: RolloutEngine
    sampling: Sampling
    limits: Limits
    renderer: PromptRenderer

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[Rollout]:
        """Greedy completions."""
        self.engine.sync()
        return self.engine.generate(prompts, self.sampling)

    def scores(self, rows: Sequence[Example], answers: Sequence[Rollout]) -> tuple[float | None, ...]:
        """Each answer's score by the task's headline scorer."""
        score = next(iter(self.task.scorers.values()))
        texts = [self.renderer.completion_text(answer.completion_ids) for answer in answers]
        return tuple(score(text, row) for text, row in zip(texts, rows, strict=True))

    def teach(
        self, template: Template, repeat: int, renderer: PromptRenderer, student_answers: Sequence[Rollout]
    ) -> TemplateResult:
        """One way of showing the demonstration; rows whose teacher prompt is too long count as unscored."""
        try:
            pairs = renderer.render_all(self.rows, answers=False)
        except UserError as error:  # the chat template takes no such turns
            return TemplateResult(
                template=template,
                repeat=repeat,
                refused=str(error),
                scores=(None,) * len(self.rows),
                kl_per_token=math.nan,
                truncated_share=1.0,
                prompt_tokens=0,
            )
        longest = self.limits.teacher_prompt.tokens if self.limits.teacher_prompt else math.inf
        fits = [len(pair.teacher_ids or ()) <= longest for pair in pairs]
        kept = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
        scored = iter(self.scores([p.example for p in kept], self.answers([p.teacher_ids or () for p in kept])))
        own = [answer for answer, fit in zip(student_answers, fits, strict=True) if fit]
        pad = pad_token_id(renderer.tokenizer)
        values = token_divergences(self.model, self.model, kept, own, pad_token_id=pad)
        return TemplateResult(
            template=template,
            repeat=repeat,
            scores=tuple(next(scored) if fit else None for fit in fits),
            kl_per_token=mean([value for tensor in values for value in tensor.tolist()]),
            truncated_share=1 - mean([float(fit) for fit in fits]),
            prompt_tokens=max(len(pair.teacher_ids or ()) for pair in pairs),
        )


def _accuracy(scores: Sequence[float | None]) -> float | None:
    scored = [score for score in scores if score is not None]
    return mean(scored) if scored else None
