"""Evaluation of a model on a task: render the prompts, sample completions, score them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.evaluate.attempts import one_row
from selfdistill.evaluate.renderers import Renderer, renderer_for
from selfdistill.evaluate.sandbox import wall_facts
from selfdistill.method.lengths import context_length
from selfdistill.method.rollout.copies import CopyOptions
from selfdistill.method.rollout.engine import OnDone, RolloutEngine, Sampling, row_seeds
from selfdistill.method.rollout.engines import BATCH_SIZE, describe, make_engine
from selfdistill.tasks.task import BatchScorer, Task
from selfdistill.types import EvalConfig, EvalResult, Example, Rollout, ScoredSample


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: Sequence[Example],
    sampling: Sampling,
    *,
    num_samples: int = 1,
    batch_size: int = BATCH_SIZE,
    seed: int = 42,
    engine: str = "auto",
    copy: CopyOptions | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    progress: OnDone | None = None,
) -> EvalResult:
    """``evaluate`` for a model in memory, with a rollout engine by name and the task's kind of prompt. ``copy``: for an
    engine that samples from a copy of the weights."""
    return evaluate(
        task,
        examples,
        make_engine(model, tokenizer, name=engine, batch_size=batch_size, options=copy),
        renderer_for(task, tokenizer, chat_template_kwargs),
        replace(sampling, context=context_length(model.config)),
        num_samples=num_samples,
        seed=seed,
        progress=progress,
    )


def evaluate(
    task: Task,
    examples: Sequence[Example],
    engine: RolloutEngine,
    renderer: Renderer,
    sampling: Sampling,
    *,
    num_samples: int = 1,
    seed: int = 42,
    progress: OnDone | None = None,
) -> EvalResult:
    """Samples and scores completions of every example.

    Args:
        task: gives the scorers, and the revision for the result's config.
        examples: evaluation rows; their demonstrations are not shown to the model.
        engine: samples the completions.
        renderer: renders the prompts.
        sampling: how to decode; its seeds are ignored and made here.
        num_samples: completions per row; a row's score is then their mean.
        seed: together with a row's id, the seed of its completions.
        progress: called with the number of completions finished since the last call.

    Raises:
        UserError: there are no examples, a prompt fills the model's context, or more than one completion per row is
            asked for with greedy decoding.
    """
    if not examples:
        raise UserError(f"{task.name}: no evaluation rows. Check --limit and the data.")
    if num_samples > 1 and sampling.temperature == 0:
        raise UserError(f"--num_samples {num_samples} of greedy decoding are all the same. Give --temperature 1.")
    rendered = prompt_ids(examples, renderer, sampling)
    prompts = [ids for ids in rendered for _ in range(num_samples)]
    ids = [example.id for example in examples for _ in range(num_samples)]
    seeds = row_seeds(seed, 0, ids) if sampling.temperature > 0 else None
    engine.sync()
    rollouts = engine.generate(prompts, replace(sampling, seeds=seeds), progress)
    completed = [_sample(task, examples[at // num_samples], rollout, renderer) for at, rollout in enumerate(rollouts)]
    attempts = _with_scores(task, completed)
    samples = tuple(one_row(attempts[start : start + num_samples]) for start in range(0, len(attempts), num_samples))
    short = sum(sampling.limit(len(prompt)) < sampling.max_new_tokens for prompt in rendered)
    config = EvalConfig(
        task=task.name,
        revision=task.revision,
        metric=next(iter(task.scorers)),
        num_rows=len(samples),
        prompt=task.prompt,
        chat_template_kwargs=renderer.chat_template_kwargs,
        num_samples=num_samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        facts={"rollout_engine": describe(engine)}
        | ({"seed": seed} if seeds else {})
        | wall_facts(task)
        | ({"rows_short_of_context": short} if short else {}),
    )
    return EvalResult(samples=samples, config=config)


def reported_result(task: Task, samples: tuple[ScoredSample, ...], prompt: str, facts: dict[str, Any]) -> EvalResult:
    """The result of samples that something other than ``evaluate`` scored.

    ``prompt`` and ``facts`` are those of EvalConfig.
    """
    config = EvalConfig(
        task=task.name,
        revision=task.revision,
        metric=next(iter(task.scorers)),
        num_rows=len(samples),
        prompt=prompt,
        facts=facts,
    )
    return EvalResult(samples=samples, config=config)


def prompt_ids(examples: Sequence[Example], renderer: Renderer, sampling: Sampling) -> list[tuple[int, ...]]:
    """The rows' prompts as token ids, in order. Raises UserError if one fills the context of ``sampling``."""
    prompts = [renderer.render(_bare(example), teacher=False, answer=False).student_ids for example in examples]
    for example, prompt in zip(examples, prompts, strict=True):
        if sampling.limit(len(prompt)) < 1:
            raise UserError(
                f"{example.id}: the prompt has {len(prompt)} tokens, the model reads {sampling.context}. Shorten the "
                "row, or choose a model with a longer context."
            )
    return prompts


def _sample(task: Task, example: Example, rollout: Rollout, renderer: Renderer) -> ScoredSample:
    """The sample with its completion as text, without scores."""
    completion = renderer.completion_text(rollout.completion_ids)
    return ScoredSample(
        example=example,
        completion=completion,
        num_tokens=len(rollout.completion_ids),
        finish_reason=rollout.finish_reason,
        scores={},
        answer=task.extract(completion),
    )


def _with_scores(task: Task, samples: Sequence[ScoredSample]) -> list[ScoredSample]:
    """The samples with the scores of all scorers. A BatchScorer gets all samples at once, others one at a time."""
    completions, examples = [sample.completion for sample in samples], [sample.example for sample in samples]
    columns = {
        name: scorer.score_all(completions, examples)
        if isinstance(scorer, BatchScorer)
        else list(map(scorer, completions, examples))
        for name, scorer in task.scorers.items()
    }
    return [
        replace(sample, scores={name: column[row] for name, column in columns.items()})
        for row, sample in enumerate(samples)
    ]


def _bare(example: Example) -> Example:
    return replace(example, demonstration=())
