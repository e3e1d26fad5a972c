"""The table of methods. To add one, add a row here and its name to ``types.Method``."""

from dataclasses import dataclass
from typing import Literal

from selfdistill.types import Method, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """How a training step treats a row."""

    completion: Literal["student", "teacher", "demonstration"]
    """Who writes the tokens that carry loss."""
    target: Target
    """What the student's predictions are compared with: the teacher's distribution, or the tokens themselves."""
    shows_demonstration: bool = False
    """Whether the teacher's prompt contains the demonstration."""
    needs_demonstration: bool = True
    """Whether every row must have a demonstration."""
    prompt: Literal["chat", "raw_text"] = "chat"
    """How a row is read: as a chat, or as the plain text of its demonstration."""
    cross_entropy_weight: Literal["one", "own_probability"] = "one"
    """Factor on a token's cross-entropy: 1, or the student's own probability of the token, detached."""
    teacher: Literal["setting", "base_model"] = "setting"
    """Which weights the teacher has: those chosen by the setting ``teacher``, or those of a frozen base model."""

    @property
    def compares(self) -> bool:
        """Whether the loss compares the student with a teacher's distribution."""
        return self.target == "teacher"

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher scores or writes the completions."""
        return self.compares or self.completion == "teacher"

    @property
    def samples(self) -> bool:
        """Whether completions are sampled, by the student or the teacher."""
        return self.completion != "demonstration"


METHODS: dict[Method, MethodSpec] = {
    "sdft": MethodSpec(completion="student", target="teacher", shows_demonstration=True),
    "offline": MethodSpec(completion="teacher", target="teacher", shows_demonstration=True),
    "reinvoke": MethodSpec(completion="student", target="teacher", needs_demonstration=False, teacher="base_model"),
    "sft": MethodSpec(completion="demonstration", target="tokens"),
    "dft": MethodSpec(completion="demonstration", target="tokens", cross_entropy_weight="own_probability"),
    "cpt": MethodSpec(completion="demonstration", target="tokens", prompt="raw_text"),
}
"""The methods by name. docs/method.md has their equations and sources."""

ANCHORS = MethodSpec(completion="student", target="start", needs_demonstration=False)
"""How anchor prompts are treated; the same for every method of the other rows."""
