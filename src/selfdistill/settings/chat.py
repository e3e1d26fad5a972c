"""What ``chat`` takes. Torch-free."""

from dataclasses import dataclass

from selfdistill.settings.commands import Dtype, at_least_1
from selfdistill.types import UserError

DEFAULT_PORT = 7860


@dataclass(kw_only=True)
class ChatOptions:
    """Talk to a model, or to two at once: one question, both answers side by side."""

    model_path: str = "smollm2-135m"
    """Trained model's folder, Hub id, .gguf file or embedded model."""
    against: str | None = None
    """A second model that answers the same questions beside it."""
    system: str | None = None
    """System prompt of both."""
    temperature: float = 0.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus of the sampler."""
    max_new_tokens: int = 512
    """Longest answer in tokens."""
    seed: int = 42
    """Seed of sampling. Both models draw the same random numbers, so only the models make answers differ."""
    web: bool = False
    """Serve a page on 127.0.0.1 instead of chatting in the terminal."""
    port: int | None = None
    """web: port of the page, by default 7860; 0 takes any free one."""
    dtype: Dtype = "auto"
    """Dtype to compute in."""

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        at_least_1(self, "max_new_tokens")
        if self.temperature < 0:
            raise UserError(f"--temperature {self.temperature} is negative. 0 is greedy decoding.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p {self.top_p} is not above 0 and at most 1.")
        if self.top_p < 1 and self.temperature == 0:
            raise UserError(f"--top_p {self.top_p} changes nothing in greedy decoding. Give --temperature 1.")
        if self.port is not None and not self.web:
            raise UserError(f"--port {self.port} is for the page only. Give --web too.")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise UserError(f"--port {self.port} is no port. Give one from 1 to 65535, or 0 for any free one.")
