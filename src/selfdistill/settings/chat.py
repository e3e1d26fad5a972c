"""What ``chat`` takes."""

from dataclasses import dataclass

from selfdistill.errors import UserError
from selfdistill.settings.fields import JsonObject, at_least, check_fields, path
from selfdistill.settings.groups import DEFAULT_MODEL, check_sampling
from selfdistill.types import Dtype

DEFAULT_PORT = 7860


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Talk to a model, or to two at once: one question, both answers side by side."""

    model_path: str = path(DEFAULT_MODEL)
    """Trained model's folder, Hub id, .gguf file or embedded model."""
    against: str | None = path()
    """A second model that answers the same questions beside it."""
    system: str | None = None
    """System prompt of both."""
    temperature: float = 0.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus of the sampler."""
    max_new_tokens: int = at_least(1, 512)
    """Longest answer in tokens."""
    seed: int = 42
    """Seed of sampling. Both models draw the same random numbers, so only the models make answers differ."""
    web: bool = False
    """Serve a page on 127.0.0.1 instead of chatting in the terminal."""
    port: int | None = None
    """web: port of the page, by default 7860; 0 takes any free one."""
    dtype: Dtype = "auto"
    """Dtype to compute in."""
    chat_template_kwargs: JsonObject | None = None
    """Passed to the chat template; by default what the run of each model was trained with."""

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        check_fields(self)
        check_sampling(self.temperature, self.top_p)
        if self.port is not None and not self.web:
            raise UserError(f"--port {self.port} is for the page only. Give --web too.")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise UserError(f"--port {self.port} is no port. Give one from 1 to 65535, or 0 for any free one.")
