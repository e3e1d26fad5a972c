"""Generate, score, mean with interval."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from selfdistill.metrics import mean, wilson_interval
from selfdistill.prompts import PromptRenderer
from selfdistill.rollout.engine import RolloutEngine, Sampling
from selfdistill.tasks.task import Task
from selfdistill.types import EvalResult, Example, Rollout, ScoredSample, UserError

Progress = Callable[[int], None]


def evaluate(
    task: Task,
    examples: Sequence[Example],
    engine: RolloutEngine,
    renderer: PromptRenderer,
    sampling: Sampling,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> EvalResult:
    """Completes and scores every example.

    Args:
        task: gives scorers and the revision that goes into the result's config.
        examples: evaluation rows; each one's demonstration is not shown.
        engine: samples completions.
        renderer: renders the student's prompt.
        sampling: decoding.
        batch_size: prompts per call of the engine, of like length.
        progress: called with the number of rows finished since the last call.

    Raises:
        UserError: there are no examples.
    """
    if not examples:
        raise UserError(f"{task.name}: no evaluation rows. Check --limit and the data.")
    prompts = [renderer.render(_without_demonstration(example)).student_ids for example in examples]
    rollouts: dict[int, Rollout] = {}
    for batch in _by_length(prompts, batch_size):
        rollouts |= zip(batch, engine.generate([prompts[i] for i in batch], sampling), strict=True)
        if progress:
            progress(len(batch))
    samples = tuple(_score(task, example, rollouts[index], renderer) for index, example in enumerate(examples))
    metric = next(iter(task.scorers))
    scores = scored(samples, metric)
    return EvalResult(
        task=task.name,
        metric=metric,
        accuracy=mean(scores),
        interval=wilson_interval(sum(scores), len(scores)),
        samples=samples,
        config={
            "task": task.name,
            "revision": task.revision,
            "metric": metric,
            "num_rows": len(examples),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
            "chat_template_kwargs": renderer.chat_template_kwargs,
        },
    )


def scored(samples: Sequence[ScoredSample], metric: str, part: str | None = None) -> list[float]:
    """Scores of one scorer, unscored samples left out; of one part where ``part`` is given."""
    chosen = (s.scores[metric] for s in samples if part is None or s.example.part == part)
    return [score for score in chosen if score is not None]


def summary(result: EvalResult) -> dict[str, Any]:
    """What ``eval_results.json`` holds: the reference's keys, then ours.

    accuracy, num_correct, num_total (scored rows only), per_sample_scores and config are the
    reference's; interval is the 95% Wilson interval; metrics and parts repeat both for every scorer
    and every named part of the evaluation set.
    """
    parts = list(dict.fromkeys(s.example.part for s in result.samples if s.example.part))
    scores = [sample.scores[result.metric] for sample in result.samples]
    return {
        **_numbers([score for score in scores if score is not None]),
        "num_unscored": scores.count(None),
        "truncated_share": mean([float(s.finish_reason == "length") for s in result.samples]),
        "mean_completion_tokens": mean([s.num_tokens for s in result.samples]),
        "metrics": {name: _numbers(scored(result.samples, name)) for name in result.samples[0].scores},
        "parts": {part: _numbers(scored(result.samples, result.metric, part)) for part in parts},
        "per_sample_scores": scores,
        "config": result.config,
    }


def responses(result: EvalResult) -> list[dict[str, Any]]:
    """What ``eval_responses.json`` holds: a row a sample."""
    return [
        {
            "id": sample.example.id,
            "part": sample.example.part,
            "prompt": list(sample.example.prompt),
            "reference": sample.example.reference,
            "completion": sample.completion,
            "scores": sample.scores,
            "num_tokens": sample.num_tokens,
            "finish_reason": sample.finish_reason,
        }
        for sample in result.samples
    ]


def _numbers(scores: Sequence[float]) -> dict[str, Any]:
    return {
        "accuracy": mean(scores),
        "interval": list(wilson_interval(sum(scores), len(scores))),
        "num_correct": int(total) if (total := sum(scores)) == int(total) else total,
        "num_total": len(scores),
    }


def _score(task: Task, example: Example, rollout: Rollout, renderer: PromptRenderer) -> ScoredSample:
    completion = renderer.completion_text(rollout.completion_ids)
    return ScoredSample(
        example=example,
        completion=completion,
        num_tokens=len(rollout.completion_ids),
        finish_reason=rollout.finish_reason,
        scores={name: scorer(completion, example) for name, scorer in task.scorers.items()},
    )


def _without_demonstration(example: Example) -> Example:
    return Example(id=example.id, prompt=example.prompt, reference=example.reference, part=example.part)


def _by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of like length, the longest first."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
