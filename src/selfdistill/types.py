"""Records that pass from room to room, and the words that settings take. A record is frozen: a room makes a new one."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

Method = Literal["sdft", "sft", "dft", "cpt", "offline", "reinvoke"]
"""Names of the rows of ``method.methods.METHODS``."""
DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd"]
"""Names of the rows of ``method.divergence.DIVERGENCES``."""
Support = Literal["full", "top_k", "sampled"]
"""Outcomes that a divergence compares: the vocabulary, the k likeliest tokens, or the sampled token."""
Role = Literal["teacher", "student"]
TeacherKind = Literal["ema", "frozen", "live"]
Template = Literal["paper", "prior_turn", "system", "few_shot", "file", "auto"]
"""Names of the rows of ``method.templates.TEMPLATES``, and ``auto``, which a preflight replaces by one of them."""
Reduction = Literal["rollout_mean", "token_mean"]
Overlong = Literal["error", "drop"]
EngineName = Literal["auto", "own", "generate"]
"""``auto``, or a row of ``method.rollout.engines.ENGINES``."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Target = Literal["teacher", "start", "tokens"]
"""What a completion is held to: the teacher, the frozen start model (anchor prompts), or its own tokens."""
FinishReason = Literal["stop", "length"]
"""``stop``: an end-of-sequence token was sampled; ``length``: the token limit was reached."""

Message = dict[str, Any]
"""One chat turn as chat templates take it: ``role``, ``content``, perhaps ``tool_calls``."""


def message_text(message: Message) -> str:
    """The readable text of one chat turn: its content, then its tool calls as JSON, one on each line."""
    parts: list[str] = []
    content = message.get("content")
    if isinstance(content, str):
        parts.append(content)
    elif content is not None:  # a list of typed parts, as multimodal templates take it
        parts.extend(part["text"] for part in content if "text" in part)
    parts.extend(json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ())
    return "\n".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of a task, training or evaluation."""

    id: str
    """Unique within its split and stable across runs, for example ``tooluse/train/17``."""
    prompt: tuple[Message, ...]
    """What the student sees: chat turns, the last one not the assistant's."""
    demonstration: tuple[Message, ...] = ()
    """The expert's answer, which only the teacher sees; it begins and ends with an assistant turn. The renderer of an
    evaluation shows it to nobody; some scorers grade by it."""
    reference: Any = None
    """The reference answer, in the form the task's scorers take."""
    part: str = ""
    """Part of the evaluation set that is reported separately; empty where there is only one."""

    @property
    def demonstration_text(self) -> str:
        """The demonstration as plain text, its turns joined by newlines."""
        return "\n".join(message_text(message) for message in self.demonstration)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPair:
    """An example rendered for the student and, where there is one, for its teacher."""

    example: Example
    student_ids: tuple[int, ...]
    """Token ids of the student's prompt, generation header included."""
    teacher_ids: tuple[int, ...] | None = None
    """Token ids of the teacher's prompt, generation header included; None where there is no teacher, or where it reads
    what the student reads."""
    demonstration_ids: tuple[int, ...] = ()
    """Token ids of the demonstration as an answer to the student's prompt, end of turn included; empty where it is not
    the completion."""
    demonstration_mask: tuple[bool, ...] | None = None
    """One flag for each of ``demonstration_ids``: True for the assistant's own tokens. None where all of them are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled completion."""

    completion_ids: tuple[int, ...]
    """Sampled token ids, verbatim, the end-of-sequence token included where one was sampled."""
    finish_reason: FinishReason
    logprobs: tuple[float, ...] | None = None
    """Log-probability in nats of every completion token under the sampler at its temperature, before any top_p cut;
    None where the engine gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSample:
    """One evaluation row with the model's completion and its scores."""

    example: Example
    completion: str
    """The completion as text, without special tokens."""
    num_tokens: int
    """Number of completion tokens, the end-of-sequence token included."""
    finish_reason: FinishReason
    scores: dict[str, float | None]
    """Score in [0, 1] by scorer name; None means unscored, which is not the same as wrong."""
    answer: str = ""
    """What of the completion counts as its answer when several completions vote."""
    attempts: tuple["ScoredSample", ...] = ()
    """Every completion of the row where several were sampled; ``scores`` are then means over those scored,
    and the other fields are those of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """How an evaluation was made. Two of them are the same test only where these agree (``stats.same_test``)."""

    task: str
    revision: str
    """The task's revision, which changes with its rows and scorers."""
    metric: str
    """Name of the scorer that is the headline."""
    num_rows: int
    prompt: str
    """``chat``, ``plain text``, or the format of a harness."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    num_samples: int = 1
    """Completions of each row."""
    temperature: float | None = None
    """None where nothing is sampled."""
    top_p: float | None = None
    max_new_tokens: int | None = None
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    """What no comparison looks at: model, dtype, versions, engine, judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """A task's evaluation: every sample, and how they were made."""

    samples: tuple[ScoredSample, ...]
    """One for each evaluation row, in the order of the data."""
    config: EvalConfig

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.config.task

    @property
    def metric(self) -> str:
        """Name of the scorer that is the headline."""
        return self.config.metric

    @property
    def scores(self) -> list[float]:
        """Scores of the headline scorer; unscored samples are left out."""
        return [score for sample in self.samples if (score := sample.scores[self.metric]) is not None]

    @property
    def accuracy(self) -> float:
        """Mean of ``scores``, in [0, 1]; NaN where none was scored."""
        return sum(self.scores) / len(self.scores) if self.scores else float("nan")
