"""Records passed between packages, and the values that settings accept.

Records are frozen: code that needs a changed record makes a new one.
"""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Method = Literal["sdft", "sft", "dft", "cpt", "offline", "reinvoke"]
"""Names of the rows of ``method.methods.METHODS``."""
DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd"]
"""Names of the rows of ``method.divergence.DIVERGENCES``."""
Support = Literal["full", "top_k", "sampled"]
"""Tokens that a divergence compares: the whole vocabulary, the k likeliest, or only the sampled one."""
Role = Literal["teacher", "student"]
TeacherKind = Literal["ema", "frozen", "live"]
TeacherHome = Literal["device", "host"]
Template = Literal["paper", "prior_turn", "system", "few_shot", "file", "question", "auto"]
"""Names of the rows of ``method.templates.TEMPLATES``, and ``auto``: a preflight chooses one of them."""
Reduction = Literal["rollout_mean", "token_mean"]
Overlong = Literal["error", "drop"]
OnBadRow = Literal["error", "skip"]
EngineName = Literal["auto", "own", "generate", "paged", "vllm", "vllm-server"]
"""``auto``, or the name of a row of ``method.rollout.engines.ENGINES``."""
COPY_ENGINES = ("vllm", "vllm-server")
"""Names of the rows of ``method.rollout.engines.COPIES``, which sample from a copy of the weights."""
WeightTransfer = Literal["auto", "folder", "nccl"]
"""How all weights go to a vLLM server; ``auto``: over NCCL where they can."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["4bit", "8bit"]
Budget = Literal["steps", "tokens", "seconds"]
"""Resource of which all runs of a comparison get the same amount; seconds are seconds of training."""
Target = Literal["teacher", "start", "tokens"]
"""What the student is trained towards: the teacher's distribution, that of the frozen start model (for anchor prompts),
or the completion's own tokens."""
TargetKind = Literal["teacher", "mix", "budget", "contrast"]
"""Names of the rows of ``method.targets.TARGETS``."""
TargetReference = Literal["start", "student"]
TokenWeight = Literal["one", "support", "position", "late", "entropy"]
"""Names of the rows of ``method.token_weights.TOKEN_WEIGHTS``."""
CompletionSource = Literal["student", "mixture", "interleaved", "accepted"]
"""Names of the rows of ``method.sources.SOURCES``."""
Writer = Literal["student", "teacher", "demonstration"]
"""Who writes a completion."""
DemonstrationFrom = Literal["row", "own_success"]
"""What the teacher is shown: the row's demonstration, or another completion that the scorer calls right."""
FinishReason = Literal["stop", "length", "rejected"]
"""``stop``: an end-of-sequence token was sampled; ``length``: the token limit was reached; ``rejected``: the last token
is the first that the teacher would have rejected (only with ``completion_source=accepted``)."""

Message = dict[str, Any]
"""One chat turn in the form that chat templates take: ``role``, ``content``, and optionally ``tool_calls``."""


def engine_in_memory(engine: EngineName) -> EngineName:
    """The engine for a model that is measured where it is: ``auto`` in the place of one that samples from a copy."""
    return "auto" if engine in COPY_ENGINES else engine


_UNSEEN = {"Zs", "Zl", "Zp", "Cc", "Cf"}
"""Unicode's categories of characters that can't be seen."""


def is_blank(text: str) -> bool:
    """Whether nothing in the text can be seen: it holds spaces, line breaks, controls and formatting characters, such
    as a zero-width space, and nothing else."""
    return not text[:1].isalnum() and all(unicodedata.category(char) in _UNSEEN for char in text)


def message_text(message: Message) -> str:
    """Returns the text of one chat turn: its content, then its tool calls as JSON, one per line."""
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, str) and not calls:
        return content
    parts: list[str] = []
    if isinstance(content, str):
        parts.append(content)
    elif content is not None:  # a list of typed parts, for multimodal templates
        parts.extend(part["text"] for part in content if "text" in part)
    parts.extend(json.dumps(call, ensure_ascii=False) for call in calls or ())
    return "\n".join(part for part in parts if part)


THINK, THINK_END = "<think>", "</think>"
"""Tags at the start and end of a thinking model's thoughts."""
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Keys of a turn for thoughts that stand beside its content; chat templates read one of the first two."""


def thoughts_beside(message: Message) -> str:
    """The thoughts of a turn that stand beside its content; empty if there are none."""
    return next((text for key in THOUGHTS if isinstance(text := message.get(key), str) and text.strip()), "")


def thoughts_of(message: Message) -> str:
    """The thoughts of an assistant's turn without tags, beside its content or in it; empty if there are none."""
    before, end, _ = str(message.get("content") or "").partition(THINK_END)
    return (thoughts_beside(message) or (before.rpartition(THINK)[2] if end else "")).strip()


def with_thoughts_inside(message: Message) -> Message:
    """The turn with the thoughts beside its content, if there are any, put before it, in their tags."""
    thoughts = thoughts_beside(message)
    if not thoughts:
        return message
    rest = {key: value for key, value in message.items() if key not in THOUGHTS}
    return {**rest, "content": f"{THINK}\n{thoughts.strip()}\n{THINK_END}\n\n{message.get('content') or ''}"}


def without_thoughts(message: Message) -> Message:
    """The turn without thoughts, beside its content or in it."""
    rest = {key: value for key, value in message.items() if key not in THOUGHTS}
    return {**rest, "content": str(rest.get("content") or "").rpartition(THINK_END)[2].lstrip("\n")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training or evaluation row of a task."""

    id: str
    """Unique within the split and the same in every run, for example ``tooluse/train/17``."""
    prompt: tuple[Message, ...]
    """Chat turns that the student sees; the last one is not the assistant's. Empty for plain text, which has none."""
    demonstration: tuple[Message, ...] = ()
    """The expert's answer, shown to the teacher only; it begins and ends with an assistant turn. No model sees it in an
    evaluation, but some scorers grade by it."""
    tools: tuple[dict[str, Any], ...] = ()
    """Definitions of the tools that the assistant may call, which the chat template shows: objects with ``type`` and
    ``function``."""
    reference: Any = None
    """Reference answer, in the form that the task's scorers expect."""
    part: str = ""
    """Name of the part of the evaluation set it belongs to, reported separately; empty if there is only one part."""

    @property
    def demonstration_text(self) -> str:
        """The demonstration as plain text, with its turns joined by newlines; without thoughts beside their content."""
        return "\n".join(message_text(message) for message in self.demonstration)

    @property
    def shown_text(self) -> str:
        """The demonstration as a teacher is shown it: as ``demonstration_text``, with all thoughts, in their tags."""
        return "\n".join(message_text(with_thoughts_inside(message)) for message in self.demonstration)


Scorer = Callable[[str, Example], float | None]
"""From a completion's text and its example to a score in [0, 1], or None for an answer that can't be graded."""
NamedScorer = tuple[str, Scorer]
"""A scorer with the name by which a resumed run is compared with the one that was begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPair:
    """An example as token ids for the student and, if there is one, for the teacher."""

    example: Example
    student_ids: tuple[int, ...]
    """Token ids of the student's prompt, generation header included."""
    teacher_ids: tuple[int, ...] | None = None
    """Token ids of the teacher's prompt, generation header included; None if there is no teacher, or if it reads the
    student's prompt."""
    demonstration_ids: tuple[int, ...] = ()
    """Token ids of the demonstration as an answer to the student's prompt, end of turn included; empty for methods that
    do not train on the demonstration itself."""
    demonstration_mask: tuple[bool, ...] | None = None
    """One flag per id of ``demonstration_ids``: True for tokens that the assistant wrote. None if it wrote all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled completion."""

    completion_ids: tuple[int, ...]
    """Token ids exactly as sampled, including the end-of-sequence token if one was sampled."""
    finish_reason: FinishReason
    logprobs: tuple[float, ...] | None = None
    """Log-probability in nats of each completion token under the sampler, at its temperature and before any top_p cut;
    None if the engine reports none."""
    replaced: tuple[int, ...] | None = None
    """Places of the tokens that the teacher wrote instead of the student; None if it could not."""
    accepted: int | None = None
    """Number of tokens that the teacher would not have rejected; None if it was not asked."""


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
    """Score in [0, 1] for each scorer by name; None means unscored, which is not the same as wrong."""
    answer: str = ""
    """The answer extracted from the completion, used when several completions vote."""
    attempts: tuple["ScoredSample", ...] = ()
    """All completions of the row if several were sampled. ``scores`` are then means over the scored ones, and the other
    fields are those of the first completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """How an evaluation was run. ``stats.same_test`` decides by it whether two evaluations are the same test."""

    task: str
    revision: str
    """Revision of the task, which changes when its rows or scorers change."""
    metric: str
    """Name of the main scorer."""
    num_rows: int
    prompt: str
    """Format of the prompts: ``chat``, ``plain text``, or that of a harness."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    num_samples: int = 1
    """Completions per row."""
    temperature: float | None = None
    """None if nothing is sampled."""
    top_p: float | None = None
    max_new_tokens: int | None = None
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further facts that comparisons ignore: model, dtype, versions, engine, judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """Result of evaluating a model on a task."""

    samples: tuple[ScoredSample, ...]
    """One sample per evaluation row, in the order of the data."""
    config: EvalConfig

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.config.task

    @property
    def metric(self) -> str:
        """Name of the main scorer."""
        return self.config.metric

    @property
    def scores(self) -> list[float]:
        """Scores by the main scorer, without the unscored samples."""
        return [score for sample in self.samples if (score := sample.scores[self.metric]) is not None]

    @property
    def accuracy(self) -> float:
        """Mean of ``scores``, in [0, 1]; NaN if no sample was scored."""
        return sum(self.scores) / len(self.scores) if self.scores else float("nan")
