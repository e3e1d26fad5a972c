"""Generate, score, mean with interval."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.evaluate.attempts import one_row, several
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.batched import make_engine
from selfdistill.method.rollout.engine import RolloutEngine, Sampling
from selfdistill.models import loading
from selfdistill.models.mode import evaluating
from selfdistill.stats.scores import mean, wilson_interval
from selfdistill.tasks.task import BatchScorer, Task
from selfdistill.types import EvalResult, Example, PromptPair, Rollout, ScoredSample, UserError

Progress = Callable[[int], None]


class Renderer(Protocol):
    """What evaluation asks of a renderer: PromptRenderer for chats, PlainText for bare text."""

    chat_template_kwargs: dict[str, Any]

    def render(self, example: Example) -> PromptPair:
        """The example's prompt as ids."""
        ...

    def completion_text(self, completion_ids: Sequence[int]) -> str:
        """A completion as text, special tokens left out."""
        ...


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: Sequence[Example],
    sampling: Sampling,
    *,
    num_samples: int = 1,
    batch_size: int = 64,
    seed: int = 42,
    renderer: Renderer | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """``evaluate`` of a model in memory, with the fastest engine for it and, by default, its chat template.

    ``seed`` is that of sampling; torch's generator is left seeded by it.
    """
    torch.manual_seed(seed)
    with evaluating(model):
        return evaluate(
            task,
            examples,
            make_engine(model, loading.eos_token_ids(model, tokenizer), loading.pad_token_id(tokenizer), batch_size),
            renderer or PromptRenderer(tokenizer),
            sampling,
            num_samples=num_samples,
            batch_size=batch_size,
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
        num_samples: completions per row; ``accuracy`` is the mean over rows of each one's mean.
        batch_size: prompts per call of the engine, of like length.
        progress: called with the number of completions finished since the last call.

    Raises:
        UserError: there are no examples, or several greedy completions of a row are asked for.
    """
    if not examples:
        raise UserError(f"{task.name}: no evaluation rows. Check --limit and the data.")
    if num_samples > 1 and sampling.temperature == 0:
        raise UserError(f"--num_samples {num_samples} of greedy decoding are all the same. Give --temperature 1.")
    rendered = [renderer.render(_without_demonstration(example)).student_ids for example in examples]
    prompts = [ids for ids in rendered for _ in range(num_samples)]
    rollouts: dict[int, Rollout] = {}
    for batch in _by_length(prompts, batch_size):
        rollouts |= zip(batch, engine.generate([prompts[i] for i in batch], sampling), strict=True)
        if progress:
            progress(len(batch))
    completed = [_sample(task, examples[at // num_samples], rollouts[at], renderer) for at in range(len(prompts))]
    attempts = _with_scores(task, completed)
    samples = tuple(one_row(attempts[start : start + num_samples]) for start in range(0, len(attempts), num_samples))
    return result_of(
        task,
        samples,
        {
            "prompt": "chat" if isinstance(renderer, PromptRenderer) else "plain text",
            "chat_template_kwargs": renderer.chat_template_kwargs,
            "num_samples": num_samples,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
        },
    )


def result_of(task: Task, samples: tuple[ScoredSample, ...], settings: dict[str, Any]) -> EvalResult:
    """The result of scored rows; ``settings`` say how they were made, for later comparisons."""
    metric = next(iter(task.scorers))
    scores = scored(samples, metric)
    facts = {"task": task.name, "revision": task.revision, "metric": metric, "num_rows": len(samples)}
    return EvalResult(
        task=task.name,
        metric=metric,
        accuracy=mean(scores),
        interval=wilson_interval(sum(scores), len(scores)),
        samples=samples,
        config=facts | settings,
    )


def scored(samples: Sequence[ScoredSample], metric: str, part: str | None = None) -> list[float]:
    """Scores of one scorer, unscored samples left out; of one part where ``part`` is given."""
    chosen = (s.scores[metric] for s in samples if part is None or s.example.part == part)
    return [score for score in chosen if score is not None]


def summary(result: EvalResult) -> dict[str, Any]:
    """What ``eval_results.json`` holds: the reference's keys, then ours.

    accuracy, num_correct, num_total (scored rows only), per_sample_scores and config are the
    reference's; interval is the 95% Wilson interval; metrics and parts repeat both for every scorer
    and every named part of the evaluation set. Where several completions were sampled, pass_at_k and
    majority_vote are there too.
    """
    names = dict.fromkeys(s.example.part for s in result.samples if s.example.part)
    parts = {part: _numbers(scored(result.samples, result.metric, part)) for part in names}
    scores = [sample.scores[result.metric] for sample in result.samples]
    completions = [one for sample in result.samples for one in sample.attempts or (sample,)]
    return {
        **_numbers([score for score in scores if score is not None]),
        "num_unscored": scores.count(None),
        "truncated_share": mean([float(one.finish_reason == "length") for one in completions]),
        "mean_completion_tokens": mean([one.num_tokens for one in completions]),
        **several(result, _numbers),
        "metrics": {name: _numbers(scored(result.samples, name)) for name in result.samples[0].scores},
        "parts": parts,
        "mean_of_parts": mean([p["accuracy"] for p in parts.values() if p["num_total"]]) if parts else None,
        "per_sample_scores": scores,
        "config": result.config,
    }


def responses(result: EvalResult) -> list[dict[str, Any]]:
    """What ``eval_responses.json`` holds: an object a row. Where several completions were sampled, all are in
    its ``completions``, ``scores`` are their means, and the rest is of the first."""
    return [
        {
            "id": sample.example.id,
            "part": sample.example.part,
            "prompt": list(sample.example.prompt),
            "reference": sample.example.reference,
            **_completion(sample),
            **({"completions": [_completion(one) for one in sample.attempts]} if sample.attempts else {}),
        }
        for sample in result.samples
    ]


def _completion(sample: ScoredSample) -> dict[str, Any]:
    return {
        "completion": sample.completion,
        "scores": sample.scores,
        "num_tokens": sample.num_tokens,
        "finish_reason": sample.finish_reason,
    }


def _numbers(scores: Sequence[float]) -> dict[str, Any]:
    return {
        "accuracy": mean(scores) if scores else None,  # JSON has no NaN
        "interval": list(wilson_interval(sum(scores), len(scores))),
        "num_correct": int(total) if (total := sum(scores)) == int(total) else total,
        "num_total": len(scores),
    }


def _sample(task: Task, example: Example, rollout: Rollout, renderer: Renderer) -> ScoredSample:
    """The completion as text, still without scores."""
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
    """The samples with the scores of all scorers, one by one but for scorers that take them at once."""
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


def _without_demonstration(example: Example) -> Example:
    return replace(example, demonstration=())


def _by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of like length, the longest first."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
