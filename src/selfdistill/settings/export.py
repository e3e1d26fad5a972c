"""Options of ``export``."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from selfdistill.errors import UserError
from selfdistill.settings.chat_template import read_chat_template
from selfdistill.settings.fields import check_fields, path

Form = Literal["safetensors", "merged", "adapter", "gguf", "ollama", "mlx"]
GGUF_FORMS = ("gguf", "ollama")
BY_LIBRARY = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""GGUF types that the gguf package makes."""
BY_PROGRAM = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k", "iq4_nl", "iq4_xs")
"""GGUF types that llama.cpp's program ``llama-quantize`` makes."""
OF_MLX = ("4bit", "8bit")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a trained model as what other programs load, and compare its logits with the model's own."""

    folder: Annotated[str, tyro.conf.Positional] = path(".")
    """A run's folder, a checkpoint in it, a ledger (its current version), or any model's or adapter's folder."""
    to: Form | None = None
    """What to write: the whole model (safetensors; merged: of an adapter), the adapter alone, or for llama.cpp (gguf),
    Ollama or MLX."""
    output_dir: str | None = path()
    """A new folder."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights that are not quantized; auto: as the model, or an adapter's base, is saved."""
    quantize: str | None = None
    """gguf and ollama: q8_0, q5_1, q5_0, q4_1, q4_0, and where llama-quantize is on PATH q4_k_m and its like; mlx:
    4bit, 8bit."""
    chat_template: str | None = path()
    """Jinja file that replaces the model's chat template in what is written."""
    push_to_hub: str | None = None
    """OWNER/NAME: also upload the folder to this model repository, which is made private if it is new."""
    public: bool = False
    """Make the new repository public."""

    def check(self) -> None:
        """Raises UserError if something is missing, not one of its values, or would be ignored."""
        check_fields(self, open_choices=("to",))
        if self.to not in get_args(Form):
            raise UserError(f"--to {self.to or 'is missing'}: choose one of {', '.join(get_args(Form))}.")
        if self.output_dir is None:
            raise UserError("--output_dir is missing: name a new folder.")
        if self.to == "adapter" and self.dtype != "auto":
            raise UserError(f"--dtype {self.dtype}: an adapter is written as it is. Leave it out, or --to merged.")
        if self.chat_template is not None:
            read_chat_template(self.chat_template)
        if self.quantize is not None:
            self._check_quantize(self.quantize)
        if self.public and self.push_to_hub is None:
            raise UserError("--public goes with --push_to_hub OWNER/NAME.")
        if self.push_to_hub is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push_to_hub):
            raise UserError(f"--push_to_hub {self.push_to_hub} is not OWNER/NAME.")

    def _check_quantize(self, kind: str) -> None:
        choices = OF_MLX if self.to == "mlx" else (*BY_LIBRARY, *BY_PROGRAM) if self.to in GGUF_FORMS else ()
        if not choices:
            raise UserError(f"--quantize {kind} goes with --to gguf, ollama or mlx, not with {self.to}.")
        if kind not in choices:
            raise UserError(f"--quantize {kind} is not one of {', '.join(choices)}.")
