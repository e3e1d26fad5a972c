"""Options of ``eval``."""

from collections.abc import Sequence
from dataclasses import dataclass

from selfdistill.errors import UserError
from selfdistill.run_folder import DRIFT
from selfdistill.settings import flat
from selfdistill.settings.chat_template import read_chat_template
from selfdistill.settings.fields import JsonObject, at_least, check_fields, data, number, path
from selfdistill.settings.groups import DEFAULT_MODEL, DEFAULT_TASK, JudgeOptions, check_sampling
from selfdistill.settings.rows import RowOptions
from selfdistill.types import COPY_ENGINES, Dtype, EngineName, Quantize

HUMANEVAL, PRIOR, PRIOR_QUICK = "humaneval-quick", "prior", "prior-quick"
MEASURES = (DRIFT, PRIOR_QUICK, HUMANEVAL, PRIOR)
"""Names that ``eval`` takes in addition to those of tasks."""
SAMPLING_FLAGS = ("batch_size", "max_new_tokens", "temperature", "top_p", "num_samples", "seed")
"""Flags that count for tasks and HumanEval only: what the others decode, if anything, is fixed."""
CUSTOM = "custom"
"""Data set name of the user's own rows."""


@dataclass(frozen=True, kw_only=True)
class EvalDataOptions:
    """What to score."""

    dataset_name: str = DEFAULT_TASK
    """Tasks, separated by commas (see `selfdistill tasks`), and drift, prior-quick, humaneval-quick or prior."""
    dataset_path: str | None = data()
    """Your own rows instead of a task: files, folders, patterns or Hub ids, separated by commas."""
    data_dir: str | None = path()
    """Folder with the tasks' data. By default the folder in SELFDISTILL_DATA, else ./data."""
    limit: int | None = at_least(1, None)
    """Score only N rows; a task with parts keeps their proportions. prior, prior-quick: N rows of each benchmark."""
    rows: RowOptions = RowOptions()

    def datasets(self) -> list[str]:
        """The names in dataset_name, without repeats."""
        return list(dict.fromkeys(name.strip() for name in self.dataset_name.split(",") if name.strip()))


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How completions are generated."""

    batch_size: int = at_least(1, 64)
    """Prompts decoded together."""
    max_new_tokens: int | None = at_least(1, None)
    """Maximum length of a completion in tokens; by default the task's own limit."""
    temperature: float = 0.0
    """Sampling temperature; 0 decodes greedily."""
    top_p: float = 1.0
    """Sample from the likeliest tokens whose probabilities add up to this (nucleus sampling)."""
    num_samples: int = at_least(1, 1)
    """Completions per row. More than one adds pass@k and a majority vote, and needs a temperature above 0."""
    seed: int = 42
    """Seed of sampling."""
    rollout_engine: EngineName = "auto"
    """own: our decoding loop. generate, paged: transformers' generate, continuous batching. auto: own or generate.
    vllm, vllm-server: vLLM in this process, or a server of it that serves this model (docs/engines.md)."""
    vllm_url: str | None = None
    """rollout_engine=vllm-server: the server's address, such as http://localhost:8000."""
    vllm_memory_share: float = number(0.3, 0.01, 0.95, "between 0.01 and 0.95")
    """rollout_engine=vllm on a GPU: share of its memory for vLLM's weights and key-value cache while it samples."""
    chat_template_kwargs: JsonObject | None = None
    """Passed to the chat template. By default what the training run in model_path used."""

    def check(self) -> None:
        """Checks ranges, and refuses what would be ignored. Raises UserError."""
        check_fields(self)
        check_sampling(self.temperature, self.top_p)
        if self.seed != DecodingOptions.seed and self.temperature == 0:
            raise UserError(f"--seed {self.seed} changes nothing in greedy decoding. Give --temperature 1.")
        for name, engine in (("vllm_url", "vllm-server"), ("vllm_memory_share", "vllm")):
            value = getattr(self, name)
            if value != getattr(DecodingOptions, name) and self.rollout_engine != engine:
                raise UserError(f"--{name} {value} changes nothing without --rollout_engine {engine}. Leave it out.")
        if self.num_samples > 1 and self.temperature == 0:
            raise UserError(
                f"--num_samples {self.num_samples} of greedy decoding are all the same. Give --temperature 1."
            )


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Evaluate a model on one or more tasks."""

    model_path: str = path(DEFAULT_MODEL)
    """Folder of a trained model, Hub id, .gguf file or name of the embedded model."""
    output_dir: str | None = path()
    """Folder for the results; by default the folder eval of the run in model_path, where `report` looks for them."""
    base_model: str | None = path()
    """For drift: the model to compare with. By default the one that the run in model_path started from."""
    base_results: str | None = path()
    """output_dir of an earlier eval, such as the base model's. The change from it is tested row by row."""
    allow_code_execution: bool = False
    """Allow programs written by the model to be run (HumanEval), each in a process that can reach nothing else."""
    allow_unconfined_code: bool = False
    """With allow_code_execution: run the programs even where the system can't confine them (any but Linux)."""
    dtype: Dtype = "auto"
    """Dtype of the computation. auto: bfloat16 where the device is fast in it, else float32."""
    quantize: Quantize | None = None
    """Keep the weights of linear layers in 4 bits (NF4) or 8, to save memory. An adapter stays beside them."""
    chat_template: str | None = path()
    """Jinja file that replaces the model's chat template."""
    overwrite: bool = False
    """Replace results already in output_dir."""
    data: EvalDataOptions = EvalDataOptions()
    decoding: DecodingOptions = DecodingOptions()
    judge: JudgeOptions = JudgeOptions()

    def check(self) -> None:
        """Checks what can be checked before anything is loaded. Raises UserError."""
        check_fields(self)
        check_fields(self.data)
        self.data.rows.check(own=self.data.dataset_path is not None)
        names = self.names
        if not names:
            raise UserError(f"--dataset_name {self.data.dataset_name!r} names no task. `selfdistill tasks` lists them.")
        for flag, users in self._users().items():
            value, default = flat.flatten(self)[flag], flat.flatten(EvalOptions())[flag]
            if value != default and not set(users) & set(names):
                raise UserError(f"--{flag} changes nothing for {', '.join(names)}. Leave it out.")
        if self.data.dataset_path and self.data.data_dir:
            raise UserError("--data_dir changes nothing beside --dataset_path. Leave it out.")
        if self.allow_unconfined_code and not self.allow_code_execution:
            raise UserError("--allow_unconfined_code changes nothing without --allow_code_execution. Leave it out.")
        self.decoding.check()
        if self.chat_template is not None:
            read_chat_template(self.chat_template)

    def _users(self) -> dict[str, Sequence[str]]:
        """For each flag that some data sets have no use for: the names of those that have one."""
        tasks = [name for name in self.names if name not in MEASURES]
        users: dict[str, Sequence[str]] = {
            "base_model": [DRIFT],
            "base_results": [name for name in self.names if name != DRIFT],
            "allow_code_execution": [HUMANEVAL, PRIOR],
            "allow_unconfined_code": [HUMANEVAL, PRIOR],
            "rollout_engine": [*tasks, HUMANEVAL, *([] if self.decoding.rollout_engine in COPY_ENGINES else [DRIFT])],
            "chat_template_kwargs": [*tasks, HUMANEVAL, DRIFT],
            "chat_template": [*tasks, DRIFT],
        }
        completed = (*tasks, HUMANEVAL)
        return (
            users
            | dict.fromkeys(("scorer", "judge_url", "judge_model"), tasks)
            | dict.fromkeys(SAMPLING_FLAGS, completed)
        )

    @property
    def names(self) -> list[str]:
        """Data sets to score; ``custom`` stands for the user's own rows."""
        return [CUSTOM] if self.data.dataset_path else self.data.datasets()
