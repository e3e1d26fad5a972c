"""Records that pass from room to room. Every one is frozen: a room reads its input and makes a new one."""

import json
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""One chat turn as chat templates take it: ``role``, ``content``, perhaps ``tool_calls``."""


class UserError(ValueError):
    """Something the user can mend. The message says what was wrong, where, and what to do next,
    in at most 40 words; the command line prints it without a traceback and exits with 2."""


def message_text(message: Message) -> str:
    """The readable text of one chat turn: its content, then its tool calls as JSON, a line each."""
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
    """What only the teacher sees: the expert's answer, an assistant turn first. Empty in evaluation rows."""
    reference: Any = None
    """The reference answer, in the form the task's scorers take."""
    part: str = ""
    """Part of the evaluation set that is reported apart; empty where there is only one."""

    @property
    def demonstration_text(self) -> str:
        """The demonstration as plain text, its turns joined by newlines."""
        return "\n".join(message_text(message) for message in self.demonstration)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPair:
    """An example rendered twice: without and with its demonstration."""

    example: Example
    student_ids: tuple[int, ...]
    """Token ids of the student's prompt, generation header included."""
    teacher_ids: tuple[int, ...]
    """Token ids of the teacher's prompt, generation header included."""
    demonstration_ids: tuple[int, ...] = ()
    """Token ids of the demonstration as an answer to the student's prompt, end of turn included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled completion."""

    completion_ids: tuple[int, ...]
    """Sampled token ids, verbatim, the end-of-sequence token included where one was sampled."""
    finish_reason: str
    """``stop``: an end-of-sequence token was sampled; ``length``: the token limit was reached."""
    logprobs: tuple[float, ...] | None = None
    """Log-probability in nats of every completion token under the sampler; None where the engine gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSample:
    """One evaluation row with the model's completion and its scores."""

    example: Example
    completion: str
    """The completion as text, without special tokens."""
    num_tokens: int
    """Number of completion tokens, the end-of-sequence token included."""
    finish_reason: str
    """``stop`` or ``length``, as in Rollout."""
    scores: dict[str, float | None]
    """Score in [0, 1] by scorer name; None means unscored, which is not the same as wrong."""
    answer: str = ""
    """What of the completion counts as its answer when several are put to the vote."""
    attempts: tuple["ScoredSample", ...] = ()
    """Every completion of the row where several were sampled; ``scores`` are then means over those scored,
    and the other fields those of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """A task's evaluation: every sample, and the mean of each scorer with its interval."""

    task: str
    """Name of the task."""
    metric: str
    """Name of the scorer that is the headline."""
    accuracy: float
    """Mean of the headline scorer over scored samples, in [0, 1]."""
    interval: tuple[float, float]
    """95% interval of ``accuracy``."""
    samples: tuple[ScoredSample, ...]
    """One per evaluation row, in the order of the data."""
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """What a later comparison needs to be the same: task revision, scorer, prompt, decoding."""
