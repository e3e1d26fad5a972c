"""Groups of options that several commands take."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from selfdistill.errors import UserError
from selfdistill.settings.fields import at_least, check_fields, path
from selfdistill.types import Dtype

DEFAULT_MODEL = "smollm2-135m"
"""Name of the embedded model. It wins over a folder of that name, which is ``./smollm2-135m``."""
DEFAULT_TASK = "assistant-tools"
"""The task whose data come with the package."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What to train on."""

    dataset_name: str = DEFAULT_TASK
    """Task to learn; `selfdistill tasks` lists them."""
    dataset_path: str | None = path()
    """Your own rows instead: JSONL, JSON, CSV, Parquet, Arrow folder or Hub id."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where data are, and how much of them to take."""

    data_dir: str | None = path()
    """Folder with the tasks' data, else SELFDISTILL_DATA, else ./data."""
    limit: int | None = at_least(1, None)
    """Use only the first so many training rows."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model to train."""

    model_name: str = path(DEFAULT_MODEL)
    """Embedded model, Hub id, local folder or .gguf file."""
    dtype: Dtype = "auto"
    """Dtype to compute in; weights are updated in fp32 whatever it is."""

    def check(self) -> None:
        """Raises UserError for a dtype that nothing can be trained in."""
        check_fields(self)
        if self.dtype == "float16":
            raise UserError(
                "--dtype float16: most gradients of this loss are too small for float16, and become 0. Train in "
                "bfloat16 or float32."
            )


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """LoRA instead of all weights."""

    lora_r: int | None = at_least(1, None)
    """Train LoRA adapters of this rank instead of all weights."""
    lora_alpha: int | None = at_least(1, None)
    """LoRA's scale; by default twice the rank."""

    def check(self) -> None:
        """Raises UserError for a value that is out of range or would be ignored."""
        check_fields(self)
        if self.lora_alpha is not None and self.lora_r is None:
            raise UserError(f"--lora_alpha {self.lora_alpha} scales an adapter. Give --lora_r too, or leave it out.")


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """Everything else of the trainer, and where its settings come from."""

    config: str | None = path()
    """YAML file with any of these settings, or a recipe's name; flags win."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """name=value: any other field of the trainer's config, repeatable."""
    preflight_rows: int = at_least(1, 16)
    """Rows that the preflight of --template auto looks at."""
    skip_memory_check: bool = False
    """Train even where the memory that a run is estimated to take is not there."""
    from_file: tyro.conf.Suppress[tuple[tuple[str, Any], ...]] = ()
    """What the YAML file sets of the trainer's other fields."""

    def check(self) -> None:
        """Raises UserError for a value that is out of range."""
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What scores completions."""

    scorer: str | None = None
    """Headline: exact_match, multiple_choice, numeric[:TOLERANCE], regex:PATTERN, judge or path.py:function."""
    judge_url: str | None = None
    """Base URL of an OpenAI-compatible judge, else SELFDISTILL_JUDGE_URL; its key is read from OPENAI_API_KEY."""
    judge_model: str | None = None
    """The judge's model."""
    judge_price: tuple[float, float] = (0.0, 0.0)
    """Dollars per million prompt and completion tokens, for the cost in the results."""


def check_sampling(temperature: float, top_p: float) -> None:
    """Raises UserError for a temperature or nucleus that no sampler takes, or that greedy decoding would ignore."""
    if not 0 <= temperature <= 1e3:
        raise UserError(f"--temperature {temperature} is not between 0 (greedy decoding) and 1000.")
    if not 0 < top_p <= 1:
        raise UserError(f"--top_p {top_p} is not above 0 and at most 1.")
    if top_p < 1 and temperature == 0:
        raise UserError(f"--top_p {top_p} changes nothing in greedy decoding. Give --temperature 1.")
