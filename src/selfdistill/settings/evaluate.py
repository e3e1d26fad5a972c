"""What ``eval`` takes."""

from dataclasses import dataclass

from selfdistill.errors import UserError
from selfdistill.settings.fields import JsonObject, at_least, check_fields, path
from selfdistill.settings.groups import DEFAULT_MODEL, DEFAULT_TASK, JudgeOptions, check_sampling
from selfdistill.types import Dtype, EngineName

DRIFT, HUMANEVAL, PRIOR, PRIOR_QUICK = "drift", "humaneval-quick", "prior", "prior-quick"
MEASURES = (DRIFT, PRIOR_QUICK, HUMANEVAL, PRIOR)
"""Names that ``eval`` takes beside those of tasks."""
UNSAMPLED = (DRIFT, PRIOR_QUICK, PRIOR)
"""Those of them that say themselves how they decode."""
CUSTOM = "custom"
"""Name of the data set of the user's own rows."""


@dataclass(frozen=True, kw_only=True)
class EvalDataOptions:
    """What to score."""

    dataset_name: str = DEFAULT_TASK
    """Task to score (`selfdistill tasks` lists them), or several with commas. Further names: drift,
    prior-quick, humaneval-quick, prior."""
    dataset_path: str | None = path()
    """Your own rows instead: prompt and reference answer."""
    data_dir: str | None = path()
    """Folder with the tasks' data, else SELFDISTILL_DATA, else ./data."""
    limit: int | None = at_least(1, None)
    """Score only so many rows: of a task as large a share of each part, of prior and prior-quick so many of each
    benchmark."""

    def datasets(self) -> list[str]:
        """The names in dataset_name, each once."""
        return list(dict.fromkeys(name.strip() for name in self.dataset_name.split(",") if name.strip()))


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How completions are made."""

    batch_size: int = at_least(1, 64)
    """Prompts decoded together."""
    max_new_tokens: int | None = at_least(1, None)
    """Longest completion in tokens; by default what the task needs."""
    temperature: float = 0.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus of the sampler."""
    num_samples: int = at_least(1, 1)
    """Completions a row; more than one gives pass@k and the majority vote, and needs a temperature."""
    seed: int = 42
    """Seed of sampling."""
    rollout_engine: EngineName = "auto"
    """own: our decoding loop. generate: transformers' generate. auto: own where it gives the model's own logits."""
    chat_template_kwargs: JsonObject | None = None
    """Passed to the chat template; by default what the run in model_path was trained with."""

    def check(self) -> None:
        """Raises UserError for a value that is out of range or would be ignored."""
        check_fields(self)
        check_sampling(self.temperature, self.top_p)
        if self.num_samples > 1 and self.temperature == 0:
            raise UserError(
                f"--num_samples {self.num_samples} of greedy decoding are all the same. Give --temperature 1."
            )


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Score a model on a task."""

    model_path: str = path(DEFAULT_MODEL)
    """Trained model's folder, Hub id, .gguf file or embedded model."""
    output_dir: str | None = path()
    """Folder for the results: <task>.json and <task>.samples.jsonl, and the reference's eval_results.json and
    eval_responses.json. By default the folder eval of the run in model_path, where `report` looks for them."""
    base_model: str | None = path()
    """drift: the model to measure against; by default the one that the run in model_path started from."""
    base_results: str | None = path()
    """output_dir of an earlier eval, such as the base model's: changes are tested row by row."""
    allow_code_execution: bool = False
    """Run the programs that the model writes (HumanEval), in a process with limits."""
    dtype: Dtype = "auto"
    """Dtype to compute in."""
    overwrite: bool = False
    """Replace results that are in output_dir."""
    data: EvalDataOptions = EvalDataOptions()
    decoding: DecodingOptions = DecodingOptions()
    judge: JudgeOptions = JudgeOptions()

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        check_fields(self.data)
        self.decoding.check()
        names = self.names
        if not names:
            raise UserError(f"--dataset_name {self.data.dataset_name!r} names no task. `selfdistill tasks` lists them.")
        needs = (
            ("base_model", self.base_model, (DRIFT,)),
            ("base_results", self.base_results, [name for name in names if name != DRIFT]),
            ("allow_code_execution", self.allow_code_execution, (HUMANEVAL, PRIOR)),
        )
        for flag, value, users in needs:
            if value and not set(users) & set(names):
                raise UserError(f"--{flag} changes nothing for {', '.join(names)}. Leave it out.")
        if not set(names) <= set(UNSAMPLED):
            return
        for flag in ("max_new_tokens", "temperature", "top_p", "num_samples", "seed"):
            if getattr(self.decoding, flag) != getattr(DecodingOptions(), flag):
                raise UserError(
                    f"--{flag} changes nothing for {', '.join(names)}: they decode in one way. Leave it out."
                )

    @property
    def names(self) -> list[str]:
        """The data sets to score; the user's own rows are ``custom``."""
        return [CUSTOM] if self.data.dataset_path else self.data.datasets()
