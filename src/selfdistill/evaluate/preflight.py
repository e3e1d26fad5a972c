"""Preflight: can self-distillation work with this model and task? A trial on a few rows before any training.

The method needs a model that does better when it is shown a demonstration. So a preflight tries every way of showing
it, and scores the teacher's answers and the student's on training rows. A teacher that is no better than the student
has nothing to teach.
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
from selfdistill.method.templates import next_templates, tried_templates
from selfdistill.models.tokens import check_end_of_turn, eos_token_ids, pad_token_id, vocab_size
from selfdistill.settings.method import MethodConfig, with_template
from selfdistill.stats.paired import PairedTest, paired_test
from selfdistill.stats.scores import LEVEL, mean
from selfdistill.tasks.task import Task
from selfdistill.types import Example, PromptPair, Rollout, Template, engine_in_memory

Progress = Callable[[str], None]
MANY_CUT = 0.5
"""Share of answers that reached the token limit from which a preflight says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateResult:
    """How the teacher does with one template."""

    template: Template
    repeat: int
    refused: str = ""
    """Why the chat template can't render it; empty if it can."""
    scores: tuple[float | None, ...]
    """The teacher's score on each row; None if it is unscored."""
    kl_per_token: float
    """Mean KL(teacher||student) in nats per token of the student's answers; NaN if no teacher prompt fits."""
    truncated_share: float
    """Share of rows whose teacher prompt is over its limit."""
    cut_share: float
    """Share of the teacher's answers that reached the token limit; 0 if it gave none."""
    prompt_tokens: int
    """Length of the longest teacher prompt in tokens."""

    @property
    def name(self) -> str:
        """The template and its repeat, such as ``paper`` or ``prior_turn x2``."""
        return template_name(self.template, self.repeat)

    @property
    def accuracy(self) -> float | None:
        """Mean score over scored rows; None if no row was scored."""
        return _accuracy(self.scores)

    @property
    def total(self) -> float:
        """Sum of the scores."""
        return math.fsum(score for score in self.scores if score is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """The outcome of a preflight."""

    base_scores: tuple[float | None, ...]
    """The student's score on each row."""
    student_truncated_share: float
    """Share of rows whose student prompt is over its limit."""
    student_cut_share: float
    """Share of the student's answers that reached the token limit."""
    templates: tuple[TemplateResult, ...]

    @property
    def base_accuracy(self) -> float | None:
        """Mean score of the student; None if no row was scored."""
        return _accuracy(self.base_scores)

    @property
    def tells(self) -> bool:
        """Whether the scorer tells anything: False if no answer, the student's or a teacher's, scored above 0."""
        return any(score for scores in (self.base_scores, *(t.scores for t in self.templates)) for score in scores)

    @property
    def best(self) -> TemplateResult:
        """The template to use: the one of highest accuracy, and of several the one with the smallest divergence.

        If the scorer tells nothing it is ``prior_turn``, the safer choice, or else the first that can be rendered.
        """
        usable = [result for result in self.templates if not result.refused]
        if not self.tells:
            return next((t for t in usable if t.template == "prior_turn"), usable[0])
        return max(usable, key=lambda t: (t.accuracy if t.accuracy is not None else -1.0, -t.kl_per_token))

    @property
    def test(self) -> PairedTest:
        """The best teacher against the student, on the rows that both have a score for."""
        return paired_test(self.base_scores, self.best.scores)

    @property
    def go(self) -> bool:
        """True if the best teacher scores higher than the student, and the test says that this is not chance."""
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
        scores = f"teacher {best:.0%} vs base {base:.0%} with {self.best.name}"
        if self.go:
            return f"{scores}: go"
        if best <= base:
            return f"{scores}: the teacher is no better than the student, so SDFT has nothing to teach here"
        return f"{scores}: the difference may be chance (p = {self.test.p_value:.2f}); try more rows (--num_rows)"

    @property
    def cut(self) -> str | None:
        """A sentence if half of the answers of the student, or of the best teacher, reached the token limit."""
        share, who = max((self.student_cut_share, "student"), (self.best.cut_share, "teacher"))
        if share < MANY_CUT:
            return None
        return (
            f"{share:.0%} of the {who}'s answers were cut at the token limit: if they would have ended, raise "
            "--max_completion_length"
        )

    @property
    def advice(self) -> str:
        """Which method to use, by earlier measurements; without any, how to find out."""
        return advice(self.base_accuracy if self.tells else None)

    def as_dict(self) -> dict[str, Any]:
        """What ``preflight --json`` prints, without the memory estimate."""
        return {
            "base_accuracy": self.base_accuracy,
            "student_truncated_share": self.student_truncated_share,
            "student_cut_share": self.student_cut_share,
            "templates": [
                {
                    "name": t.name,
                    "template": t.template,
                    "repeat": t.repeat,
                    "accuracy": t.accuracy,
                    "kl_per_token": None if math.isnan(t.kl_per_token) else t.kl_per_token,
                    "truncated_share": t.truncated_share,
                    "cut_share": t.cut_share,
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
    then: Sequence[tuple[Template, int]] | None = None,
    engine: RolloutEngine | None = None,
    progress: Progress = lambda _: None,
) -> Preflight:
    """Scores greedy answers of student and teacher on training rows.

    Args:
        model: the model in memory, which is student and teacher.
        tokenizer: its tokenizer.
        task: gives the scorer.
        examples: training rows.
        config: the method's settings.
        num_rows: number of rows to take, evenly spread over ``examples``.
        templates: templates and repeats to try; by default those that ``TEMPLATES`` marks.
        then: higher repeats, each tried if the last scored more than the one before; by default those marked there.
        engine: samples the answers; by default the one that ``config`` names.
        progress: called with the name of what is tried next.

    Raises:
        UserError: no row fits the student's length limit, the chat template refuses every template, or no token that
            ends generation ends an answer in it.
    """
    check_end_of_turn(tokenizer, eos_token_ids(model, tokenizer))
    limits = length_limits(config, model.config, METHODS["sdft"])  # whatever the method: here both answer
    student = make_renderer(examples, with_template(config, "paper", 1), tokenizer)
    rows = list(examples)[:: max(1, len(examples) // num_rows)][:num_rows]
    pairs = student.render_all(rows, teacher=False, answers=False)
    kept = _fitting(pairs, limits)
    trial = _Trial(
        model=model,
        task=task,
        rows=[pair.example for pair in kept],
        engine=engine or make_engine(model, tokenizer, name=engine_in_memory(config.rollout_engine)),
        sampling=Sampling(max_new_tokens=config.max_completion_length, temperature=0),
        limits=limits,
        renderer=student,
    )
    progress("the student")
    answers = trial.answers([pair.student_ids for pair in kept])

    def teach(template: Template, repeat: int) -> TemplateResult:
        progress(template_name(template, repeat))
        renderer = make_renderer(examples, with_template(config, template, repeat), tokenizer)
        return trial.teach(template, repeat, renderer, answers)

    return Preflight(
        base_scores=trial.scores(trial.rows, answers),
        student_truncated_share=1 - len(kept) / len(pairs),
        student_cut_share=_cut_share(answers),
        templates=_taught(teach, templates or tried_templates(), next_templates() if then is None else then),
    )


def _taught(
    teach: Callable[[Template, int], TemplateResult],
    first: Sequence[tuple[Template, int]],
    then: Sequence[tuple[Template, int]],
) -> tuple[TemplateResult, ...]:
    """Tries all of ``first``, and of ``then`` those that there is reason to. Raises UserError if all are refused."""
    results = [teach(*pair) for pair in first]
    for pair in then:
        if _rises(results, *pair):
            results.append(teach(*pair))
    if all(result.refused for result in results):
        raise UserError(f"preflight: the chat template refuses every --template. {results[0].refused}")
    return tuple(results)


def _rises(results: Sequence[TemplateResult], template: str, repeat: int) -> bool:
    """Whether of a template's repeats below ``repeat`` the highest scored more than the one before it."""
    lower = sorted((r for r in results if r.template == template and r.repeat < repeat), key=lambda r: r.repeat)
    return len(lower) > 1 and lower[-1].total > lower[-2].total


def template_name(template: str, repeat: int) -> str:
    """The template with its repeat, such as ``prior_turn x2``; a repeat of 1 is left out."""
    return template if repeat == 1 else f"{template} x{repeat}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What the trials of all templates have in common."""

    model: PreTrainedModel
    task: Task
    rows: Sequence[Example]
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
        """Tries one template; rows whose teacher prompt is too long count as unscored."""
        try:
            pairs = renderer.render_all(self.rows, answers=False)
        except UserError as error:  # the chat template refuses such turns
            return TemplateResult(
                template=template,
                repeat=repeat,
                refused=str(error),
                scores=(None,) * len(self.rows),
                kl_per_token=math.nan,
                truncated_share=1.0,
                cut_share=0.0,
                prompt_tokens=0,
            )
        longest = self.limits.teacher_prompt.tokens if self.limits.teacher_prompt else math.inf
        fits = [len(pair.teacher_ids or ()) <= longest for pair in pairs]
        kept = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
        answers = self.answers([pair.teacher_ids or () for pair in kept])
        scored = iter(self.scores([pair.example for pair in kept], answers))
        own = [answer for answer, fit in zip(student_answers, fits, strict=True) if fit]
        pad = pad_token_id(renderer.tokenizer, vocab_size(self.model))
        values = token_divergences(self.model, self.model, kept, own, pad_token_id=pad)
        return TemplateResult(
            template=template,
            repeat=repeat,
            scores=tuple(next(scored) if fit else None for fit in fits),
            kl_per_token=mean([value for tensor in values for value in tensor.tolist()]),
            truncated_share=1 - mean([float(fit) for fit in fits]),
            cut_share=_cut_share(answers),
            prompt_tokens=max(len(pair.teacher_ids or ()) for pair in pairs),
        )


def _fitting(pairs: Sequence[PromptPair], limits: Limits) -> list[PromptPair]:
    kept = [pair for pair in pairs if len(pair.student_ids) <= limits.prompt.tokens]
    if not kept:
        raise UserError("preflight: no row fits --max_prompt_length. Raise it, or shorten the prompts.")
    return kept


def _cut_share(answers: Sequence[Rollout]) -> float:
    return mean([float(answer.finish_reason == "length") for answer in answers]) if answers else 0.0


def _accuracy(scores: Sequence[float | None]) -> float | None:
    scored = [score for score in scores if score is not None]
    return mean(scored) if scored else None
