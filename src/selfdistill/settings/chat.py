"""Options of ``chat``."""

from dataclasses import dataclass

from selfdistill.errors import UserError
from selfdistill.settings.chat_template import read_chat_template
from selfdistill.settings.fields import JsonObject, at_least, check_fields, check_port, path
from selfdistill.settings.groups import DEFAULT_MODEL, check_sampling
from selfdistill.types import Dtype, Quantize

DEFAULT_PORT = 7860


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Talk to one model, or to two at once with their answers side by side."""

    model_path: str = path(DEFAULT_MODEL)
    """Folder of a trained model, Hub id, .gguf file or name of the embedded model."""
    against: str | None = path()
    """A second model that answers the same questions."""
    system: str | None = None
    """System prompt for both models."""
    temperature: float = 0.0
    """Sampling temperature; 0 decodes greedily."""
    top_p: float = 1.0
    """Sample from the likeliest tokens whose probabilities add up to this (nucleus sampling)."""
    max_new_tokens: int = at_least(1, 512)
    """Maximum length of an answer in tokens."""
    seed: int = 42
    """Seed of sampling. Both models draw the same random numbers, so that only the models make a difference."""
    web: bool = False
    """Serve a page on 127.0.0.1 instead of chatting in the terminal."""
    port: int | None = None
    """Port of the page, with --web: by default 7860; 0 takes any free port."""
    dtype: Dtype = "auto"
    """Dtype of the computation. auto: bfloat16 where the device is fast in it, else float32."""
    quantize: Quantize | None = None
    """Keep the weights of linear layers in 4 bits (NF4) or 8, to save memory. An adapter stays beside them."""
    chat_template_kwargs: JsonObject | None = None
    """Passed to the chat template. By default each model gets what its own training run used."""
    chat_template: str | None = path()
    """Jinja file that replaces both models' chat templates; by default each has its own."""

    def check(self) -> None:
        """Checks what can be checked before anything is loaded. Raises UserError."""
        check_fields(self)
        if self.chat_template is not None:
            read_chat_template(self.chat_template)
        check_sampling(self.temperature, self.top_p)
        if self.port is not None and not self.web:
            raise UserError(f"--port {self.port} is for the page only. Give --web too.")
        if self.port is not None:
            check_port(self.port)
