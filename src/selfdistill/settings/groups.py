"""Groups of options shared by several commands."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from selfdistill.errors import UserError
from selfdistill.settings.chat_template import read_chat_template
from selfdistill.settings.fields import at_least, check_fields, data, path
from selfdistill.settings.rows import RowOptions
from selfdistill.types import Dtype, Quantize

DEFAULT_MODEL = "smollm2-135m"
"""Name of the embedded model. A folder of the same name has to be written ``./smollm2-135m``."""
DEFAULT_TASK = "assistant-tools"
"""The task whose data are part of the package."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Data to train on."""

    dataset_name: str = DEFAULT_TASK
    """Task to train on; `selfdistill tasks` lists them."""
    dataset_path: str | None = data()
    """Your own rows instead of a task: files, folders, patterns, Hub ids (owner/name:config@revision), separated by
    commas. a.jsonl:2,b.jsonl:1 draws two rows of a for each of b."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the data are, and how many rows to use."""

    data_dir: str | None = path()
    """Folder with the tasks' data. By default the folder in SELFDISTILL_DATA, else ./data."""
    limit: int | None = at_least(1, None)
    """Use only the first N training rows."""
    rows: RowOptions = RowOptions()


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model to train."""

    model_name: str = path(DEFAULT_MODEL)
    """Name of the embedded model, Hub id, local folder or .gguf file."""
    dtype: Dtype = "auto"
    """Dtype of the computation; weights are updated in float32. auto: bfloat16 where that is fast, else float32."""
    quantize: Quantize | None = None
    """Keep the weights, which --lora_r leaves as they are, in 4 bits (NF4, as QLoRA) or 8, to save memory."""
    chat_template: str | None = path()
    """Jinja file that replaces the tokenizer's chat template; it is saved with the trained model."""

    def check(self) -> None:
        """Refuses a dtype that can't be used for training, and a chat template that can't be read. Raises
        UserError."""
        check_fields(self)
        if self.chat_template is not None:
            read_chat_template(self.chat_template)
        if self.dtype == "float16":
            raise UserError(
                "--dtype float16: most gradients of this loss are too small for float16 and become 0. Train in "
                "bfloat16 or float32."
            )

    def check_merging(self) -> None:
        """For a command that trains in stages. Raises UserError if the weights are quantized."""
        if self.quantize is not None:
            raise UserError(
                f"--quantize {self.quantize}: each stage's adapter is merged into the weights, which quantized ones "
                "would round. Leave it out; train and compare take it."
            )


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """LoRA instead of all weights."""

    lora_r: int | None = at_least(1, None)
    """Train LoRA adapters of this rank instead of all weights."""
    lora_alpha: int | None = at_least(1, None)
    """LoRA's alpha, which scales the adapter by alpha / rank; by default twice the rank."""

    def check(self) -> None:
        """Checks ranges, and refuses what would be ignored. Raises UserError."""
        check_fields(self)
        if self.lora_alpha is not None and self.lora_r is None:
            raise UserError(f"--lora_alpha {self.lora_alpha} scales an adapter. Give --lora_r too, or leave it out.")


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """Configuration file, other settings of the trainer, and the checks before training."""

    config: str | None = path()
    """YAML file with any of these settings, or the name of a recipe. Flags override it."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """name=value: any other field of the trainer's config (transformers' TrainingArguments); may be repeated."""
    report_to: str | None = None
    """Trackers to report to, separated by commas: tensorboard, trackio, wandb, mlflow, swanlab or another of
    transformers'. They are also given each logged step's completions, by train the report, too."""
    preflight_rows: int = at_least(1, 16)
    """Training rows used by the preflight that --template auto runs."""
    skip_memory_check: bool = False
    """Train even if the estimated memory exceeds what is available."""
    from_file: tyro.conf.Suppress[tuple[tuple[str, Any], ...]] = ()
    """Fields of the trainer's config that the YAML file sets and that have no flag: (name, value) pairs."""

    def check(self) -> None:
        """Checks ranges. Raises UserError."""
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """How completions are scored."""

    scorer: str | None = None
    """exact_match, multiple_choice, numeric[:TOLERANCE], regex:PATTERN, judge or path.py:function; else the task's."""
    judge_url: str | None = None
    """Base URL of an OpenAI-compatible judge; by default SELFDISTILL_JUDGE_URL. Its key is read from OPENAI_API_KEY."""
    judge_model: str | None = None
    """Model that the judge uses."""
    judge_price: tuple[float, float] = (0.0, 0.0)
    """Dollars per million prompt tokens and per million completion tokens, for the cost in the results."""


def check_sampling(temperature: float, top_p: float) -> None:
    """Checks the sampling settings of an evaluation or chat.

    Raises:
        UserError: temperature or top_p is out of range, or top_p is below 1 with greedy decoding, which ignores it.
    """
    if not 0 <= temperature <= 1e3:
        raise UserError(f"--temperature {temperature} is not between 0 (greedy decoding) and 1000.")
    if not 0 < top_p <= 1:
        raise UserError(f"--top_p {top_p} is not above 0 and at most 1.")
    if top_p < 1 and temperature == 0:
        raise UserError(f"--top_p {top_p} changes nothing in greedy decoding. Give --temperature 1.")
