"""What the commands take. Torch-free, so that ``--help`` answers at once."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import tyro

from selfdistill.settings.method import MethodConfig, Template, check_output_dir
from selfdistill.types import UserError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def at_least_1(options: Any, *names: str) -> None:
    """Raises UserError for the first of these options that is a number below 1."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} is not at least 1. Raise it.")


@dataclass(kw_only=True)
class TrainWhat:
    """What to train on, where, and where to put it: the part of TrainOptions that is not the method."""

    output_dir: str | None = None
    """Folder for the model and the run's records. It must be new or empty."""
    dataset_name: str = "assistant-tools"
    """Task to learn; `selfdistill tasks` lists them."""
    dataset_path: str | None = None
    """Your own rows instead: JSONL, JSON, CSV, Parquet, Arrow folder or Hub id."""
    data_dir: str | None = None
    """Folder with the tasks' data, else SELFDISTILL_DATA, else ./data."""
    model_name: str = "smollm2-135m"
    """Embedded model, Hub id, local folder or .gguf file."""
    base_model: str | None = None
    """reinvoke: the model to distil from; by default the one that the run in model_name started from."""
    dtype: Dtype = "auto"
    """Dtype to compute in; weights are updated in fp32 whatever it is."""
    lora_r: int | None = None
    """Train LoRA adapters of this rank instead of all weights."""
    lora_alpha: int | None = None
    """LoRA's scale; by default twice the rank."""
    limit: int | None = None
    """Use the first so many training rows only."""
    save_steps: int | None = None
    """Write a checkpoint to resume from every so many steps."""
    config: str | None = None
    """YAML file with any of these settings, or a recipe's name; flags win."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """name=value: any other field of the trainer's config, repeatable."""
    dry_run: bool = False
    """Print settings, prompts, lengths and memory, then stop."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir."""
    overwrite: bool = False
    """Replace what is in output_dir."""
    profile: bool = False
    """Write a trace of steps 2 to 4, trace.json.gz, to be opened at ui.perfetto.dev."""
    skip_memory_check: bool = False
    """Train even where the memory that a run is estimated to take is not there."""


@dataclass(kw_only=True)
class TrainOptions(MethodConfig, TrainWhat):
    """Teach a model the demonstrations of a task. Any field of the trainer's config goes to --set."""

    max_completion_length: int | None = None  # type: ignore[assignment]
    """Longest completion in tokens; by default 1.5 times the usual demonstration."""
    template: Template = "auto"
    """How the teacher is shown the demonstration; auto: a preflight on a few rows picks the best."""
    preflight_rows: int = 16
    """Rows that the preflight of --template auto looks at."""
    from_file: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict[str, Any])
    """What the YAML file sets of the trainer's other fields."""

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        at_least_1(self, "lora_r", "lora_alpha", "limit", "save_steps", "preflight_rows")
        self.validate()
        if self.output_dir is None and not self.dry_run:
            raise UserError("--output_dir is missing: name a folder for the model and its records.")
        if self.output_dir is not None and not self.dry_run:
            check_output_dir(self.output_dir, resume=self.resume, overwrite=self.overwrite)

    def method_settings(self) -> dict[str, Any]:
        """The method's settings among the options, by field name."""
        return {f.name: getattr(self, f.name) for f in fields(MethodConfig)}


@dataclass(kw_only=True)
class EvalOptions:
    """Score a model on a task."""

    model_path: str = "smollm2-135m"
    """Trained model's folder, Hub id, .gguf file or embedded model."""
    output_dir: str | None = None
    """Folder for eval_results.json and eval_responses.json; of several tasks each has a subfolder."""
    dataset_name: str = "assistant-tools"
    """Task to score (`selfdistill tasks` lists them), or several with commas. Further names: drift,
    prior-quick, humaneval-quick, prior."""
    dataset_path: str | None = None
    """Your own rows instead: prompt and reference answer."""
    data_dir: str | None = None
    """Folder with the tasks' data, else SELFDISTILL_DATA, else ./data."""
    limit: int | None = None
    """Score the first so many rows only, of prior and prior-quick so many a benchmark."""
    batch_size: int = 64
    """Prompts decoded together."""
    max_new_tokens: int | None = None
    """Longest completion in tokens; by default what the task needs."""
    temperature: float = 0.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus of the sampler."""
    num_samples: int = 1
    """Completions a row; more than one gives pass@k and the majority vote, and needs a temperature."""
    seed: int = 42
    """Seed of sampling."""
    base_model: str | None = None
    """drift: the model to measure against; by default the one that the run in model_path started from."""
    base_results: str | None = None
    """output_dir of an earlier eval, such as the base model's: changes are tested row by row."""
    allow_code_execution: bool = False
    """Run the programs that the model writes (HumanEval), in a process with limits."""
    scorer: str | None = None
    """Headline: exact_match, multiple_choice, numeric[:TOLERANCE], regex:PATTERN, judge or path.py:function."""
    judge_url: str | None = None
    """Base URL of an OpenAI-compatible judge, else SELFDISTILL_JUDGE_URL; its key is read from OPENAI_API_KEY."""
    judge_model: str | None = None
    """The judge's model."""
    judge_price: tuple[float, float] = (0.0, 0.0)
    """Dollars per million prompt and completion tokens, for the cost in the results."""
    dtype: Dtype = "auto"
    """Dtype to compute in."""
    overwrite: bool = False
    """Replace results that are in output_dir."""

    def datasets(self) -> list[str]:
        """The names in dataset_name, each once."""
        return list(dict.fromkeys(name.strip() for name in self.dataset_name.split(",") if name.strip()))

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        at_least_1(self, "limit", "batch_size", "max_new_tokens", "num_samples")
        if not self.datasets():
            raise UserError(f"--dataset_name {self.dataset_name!r} names no task. `selfdistill tasks` lists them.")
        if self.temperature < 0:
            raise UserError(f"--temperature {self.temperature} is negative. 0 is greedy decoding.")
        if self.num_samples > 1 and self.temperature == 0:
            raise UserError(
                f"--num_samples {self.num_samples} of greedy decoding are all the same. Give --temperature 1."
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p {self.top_p} is not above 0 and at most 1.")
        if self.output_dir is None:
            raise UserError("--output_dir is missing: name a folder for the results.")


@dataclass(kw_only=True)
class PreflightOptions:
    """Say before any training whether self-distillation can work, and with which template."""

    dataset_name: str = "assistant-tools"
    """Task to learn; `selfdistill tasks` lists them."""
    dataset_path: str | None = None
    """Your own rows instead: JSONL, JSON, CSV, Parquet, Arrow folder or Hub id."""
    data_dir: str | None = None
    """Folder with the tasks' data, else SELFDISTILL_DATA, else ./data."""
    model_name: str = "smollm2-135m"
    """Embedded model, Hub id, local folder or .gguf file."""
    dtype: Dtype = "auto"
    """Dtype to compute in."""
    num_rows: int = 32
    """Training rows to look at."""
    max_prompt_length: int | None = None
    """Longest student prompt in tokens; by default what the model's context leaves."""
    max_teacher_prompt_length: int | None = None
    """Longest teacher prompt in tokens; by default what the model's context leaves."""
    max_completion_length: int | None = None
    """Longest completion in tokens; by default 1.5 times the usual demonstration."""
    per_device_train_batch_size: int = 4
    """For the memory estimate: prompts per micro-batch."""
    gradient_accumulation_steps: int = 8
    """For the memory estimate: micro-batches per optimizer step."""
    lora_r: int | None = None
    """For the memory estimate: rank of LoRA."""
    json: bool = False
    """Print one JSON object and nothing else."""

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        at_least_1(self, "num_rows")

    def train_settings(self) -> dict[str, Any]:
        """What ``train`` would be given."""
        own = ("num_rows", "json")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in own}


@dataclass(kw_only=True)
class DemoOptions:
    """Evaluate, train and evaluate again on the embedded model and data, and write a report."""

    output_dir: str = "runs/demo"
    """Folder for the model, the records and report.html."""
    config: str = "demo-cpu"
    """Recipe or YAML file with the settings to train with."""
    limit: int | None = None
    """Score the first so many rows only."""
    overwrite: bool = False
    """Replace what is in output_dir."""
    skip_memory_check: bool = False
    """Train even where the memory that a run is estimated to take is not there."""


@dataclass(kw_only=True)
class ReportOptions:
    """Show a run or a study as one page: report.html, with report.md, results.json and tables as CSV."""

    folder: Annotated[str, tyro.conf.Positional]
    """Folder that train, compare or continual wrote."""
    output: str | None = None
    """Folder to write to; by default the same."""


@dataclass(kw_only=True)
class BuildOptions:
    """Write the data of a task that doesn't come ready-made."""

    task: Annotated[Literal["medical", "wiki"], tyro.conf.Positional]
    """Task to write the data of."""
    output_dir: str | None = None
    """Folder for <task>_data, to be named with --data_dir later."""
    source: str | None = None
    """medical: HuatuoGPT-o1 rows, a file or Hub id such as FreedomIntelligence/medical-o1-reasoning-SFT."""
    hub_config: str | None = None
    """medical: configuration of the source on the Hub, such as en."""
    answers: str | None = None
    """medical: rows with the ground truths, a file or Hub id, where the source has none."""
    articles: str | None = None
    """wiki: folder of .txt and .md files, an article each."""
    model_name: str | None = None
    """wiki: model that writes the questions; one of some billion weights, small ones get the facts wrong."""
    questions_per_passage: int = 4
    """wiki: questions to ask for."""
    batch_size: int = 32
    """wiki: passages read together."""
    dtype: Dtype = "auto"
    """wiki: dtype to compute in."""
    num_eval: int | None = None
    """Rows to hold out for evaluation, for wiki of each kind; by default a tenth."""
    limit: int | None = None
    """Use the first so many rows or passages only."""
    seed: int = 42
    """Seed of the split and of the model's questions."""
    overwrite: bool = False
    """Replace data that are in output_dir."""

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        at_least_1(self, "questions_per_passage", "batch_size", "num_eval", "limit")
        if self.output_dir is None:
            raise UserError("--output_dir is missing: name a folder for the data.")
        own = {"medical": ("source", "hub_config", "answers"), "wiki": ("articles", "model_name")}
        for name in ("source",) if self.task == "medical" else own["wiki"]:
            if getattr(self, name) is None:
                raise UserError(f"build {self.task}: --{name} is missing.")
        for name in own["wiki" if self.task == "medical" else "medical"]:
            if getattr(self, name) is not None:
                raise UserError(f"build {self.task} takes no --{name}. Leave it out.")


@dataclass(kw_only=True)
class ListOptions:
    """Print a table."""
