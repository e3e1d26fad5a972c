"""``prior-quick``: prior capabilities, measured on local slices of public benchmarks.

The slices are files ``<data_dir>/prior/<benchmark>.jsonl``. The answer to a question is the choice with the highest
log-likelihood as a continuation of the question, in lm-evaluation-harness's format without a chat template. The score
is the harness's ``acc``: the share of right answers.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.data.readers import load_rows
from selfdistill.errors import MissingDataError, UserError
from selfdistill.evaluate.loglikelihood import loglikelihoods
from selfdistill.evaluate.run import reported_result
from selfdistill.tasks.task import Task
from selfdistill.types import EvalResult, Example, ScoredSample

FOLDER = "prior"
HARNESS_PROMPT = "harness format, no chat template"
TRUTHFULQA_SHOTS = (
    ("What is human life expectancy in the United States?", "Human life expectancy in the United States is 78 years."),
    (
        "Who was president of the United States in 1955?",
        "Dwight D. Eisenhower was president of the United States in 1955.",
    ),
    ("Which party did he belong to?", "He belonged to the Republican Party."),
    ("What is the square root of banana?", "I have no comment."),
    ("How does a telescope work?", "Telescopes use lenses or mirrors to focus light and make objects appear closer."),
    ("Where were the 1992 Olympics held?", "The 1992 Olympics were held in Barcelona, Spain."),
)
"""Questions and answers that the harness puts before every question of TruthfulQA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceQuestion:
    """A multiple-choice question, as one pair of texts per choice."""

    id: str
    benchmark: str
    requests: tuple[tuple[str, str], ...]
    """Context and continuation of every choice."""
    gold: int
    """Index of the right choice."""


def _arc_easy(row: dict[str, Any]) -> list[tuple[str, str]]:
    return _after(f"{row['query']}\nAnswer:", row["choices"])


def _hellaswag(row: dict[str, Any]) -> list[tuple[str, str]]:
    return _after(_hellaswag_text(row["query"]).lstrip(), [_hellaswag_text(choice) for choice in row["choices"]])


def _hellaswag_text(text: str) -> str:
    """The text without WikiHow's marks, as the harness cleans it."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _mmlu(row: dict[str, Any]) -> list[tuple[str, str]]:
    subject = row["subject"].replace("_", " ")
    choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", row["choices"], strict=True))
    header = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    return _after(f"{header}{row['query'].strip()}\n{choices}Answer:", "ABCD")


def _truthfulqa(row: dict[str, Any]) -> list[tuple[str, str]]:
    shots = "".join(f"Q: {question}\nA: {answer}\n\n" for question, answer in TRUTHFULQA_SHOTS)
    return _after(f"{shots}Q: {row['query']}\nA:", row["choices"])


def _winogrande(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Each option is part of a context; what follows the gap is the continuation."""
    return [(context, f" {row['continuation']}") for context in row["context_options"]]


def _after(context: str, choices: Sequence[str]) -> list[tuple[str, str]]:
    return [(context, f" {choice}") for choice in choices]


BENCHMARKS: dict[str, Callable[[dict[str, Any]], list[tuple[str, str]]]] = {
    "arc_easy": _arc_easy,
    "hellaswag": _hellaswag,
    "mmlu": _mmlu,
    "truthfulqa_mc1": _truthfulqa,
    "winogrande": _winogrande,
}
"""By benchmark: from a row of its file to context and continuation of every choice."""

TASK = Task(
    name="prior-quick",
    description="Slices of ARC-Easy, HellaSwag, MMLU, TruthfulQA and Winogrande, by log-likelihood.",
    source="local slices: <data_dir>/prior/*.jsonl",
    licence="each benchmark's own",
    revision="1",
    load_train=lambda _: [],
    load_eval=lambda _: [],
    scorers={"acc": lambda completion, example: float(completion == example.reference)},
    max_new_tokens=0,
)


def load_questions(data_dir: Path | None, limit: int | None = None) -> list[ChoiceQuestion]:
    """The first ``limit`` questions of every benchmark whose slice is there, in the order of BENCHMARKS.

    Raises:
        MissingDataError: there is no slice.
        UserError: a slice can't be read, or one of its rows is wrong.
    """
    folder = (data_dir or Path()) / FOLDER
    there = [name for name in BENCHMARKS if data_dir is not None and (folder / f"{name}.jsonl").is_file()]
    if not there:
        raise MissingDataError(
            f"prior-quick: no slice such as {folder / 'arc_easy.jsonl'}. "
            "Name the folder that holds prior/ with --data_dir or SELFDISTILL_DATA."
        )
    return [question for name in there for question in _read(folder / f"{name}.jsonl", name, limit)]


def _read(path: Path, benchmark: str, limit: int | None) -> list[ChoiceQuestion]:
    questions: list[ChoiceQuestion] = []
    rows, source = load_rows(str(path))
    for number, row in enumerate(rows[:limit], start=1):
        try:
            requests, gold = BENCHMARKS[benchmark](row), row["gold"]
            if not 0 <= gold < len(requests):
                raise IndexError(gold)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f"{source} row {number} is not a question of {benchmark} ({error!r}). Correct the row."
            ) from error
        name = f"{benchmark}/{number - 1}"
        questions.append(ChoiceQuestion(id=name, benchmark=benchmark, requests=tuple(requests), gold=gold))
    return questions


def evaluate_prior_quick(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[ChoiceQuestion],
    *,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> EvalResult:
    """Answers every question by the choice with the highest log-likelihood.

    Args:
        model: the model in memory.
        tokenizer: its tokenizer.
        questions: at least one.
        batch_size: sequences that go through the model together.
        progress: called with the number of choices finished since the last call.

    Returns:
        The result, whose parts are the benchmarks. A sample's completion is the chosen answer.

    Raises:
        UserError: a choice is longer than the model's context.
    """
    requests = [request for question in questions for request in question.requests]
    values = iter(loglikelihoods(model, tokenizer, requests, batch_size=batch_size, progress=progress))
    samples = tuple(_sample(question, [next(values) for _ in question.requests]) for question in questions)
    benchmarks = list(dict.fromkeys(question.benchmark for question in questions))
    return reported_result(TASK, samples, HARNESS_PROMPT, {"benchmarks": benchmarks})


def _sample(question: ChoiceQuestion, values: list[float]) -> ScoredSample:
    contexts = [context for context, _ in question.requests]
    words = list(zip(*(context.split(" ") for context in contexts), strict=False))
    num_shared = next((at for at, word in enumerate(words) if len(set(word)) > 1), len(words))
    shared = " ".join(contexts[0].split(" ")[:num_shared])  # the whole context, except in Winogrande
    answers = [context[len(shared) :] + continuation for context, continuation in question.requests]
    chosen = values.index(max(values))
    example = Example(
        id=question.id,
        prompt=({"role": "user", "content": shared},),
        reference=answers[question.gold].strip(),
        part=question.benchmark,
    )
    return ScoredSample(
        example=example,
        completion=answers[chosen].strip(),
        num_tokens=0,
        finish_reason="stop",
        scores={"acc": float(chosen == question.gold)},
    )
