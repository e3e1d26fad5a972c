"""Options of ``plan``."""

from dataclasses import dataclass
from typing import Literal

from selfdistill.errors import UserError
from selfdistill.settings.fields import at_least, check_fields, path

Gpu = Literal["h200", "h100", "a100-80", "a100-40", "l40s", "4090", "t4", "cpu", "mps"]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Show which training settings fit a GPU, and how long a step takes, from a model's config.json alone."""

    model_name: str = path("Qwen/Qwen2.5-7B-Instruct")
    """Folder with a config.json, or Hub id."""
    gpu: Gpu = "h200"
    """The GPU to train on; cpu or mps: this machine, which is measured."""
    gpus: int = at_least(1, 1)
    """Number of such GPUs in one machine. Each holds the whole model and takes its share of the prompts."""
    max_prompt_length: int = at_least(1, 1024)
    """Longest prompt in tokens, of student and teacher."""
    max_completion_length: int = at_least(1, 1024)
    """Longest completion in tokens."""
    prompts: int = at_least(1, 32)
    """Prompts per optimizer step."""
    steps: int | None = at_least(1, None)
    """Optimizer steps of the run, for its time and cost."""
    price: float | None = at_least(0, None)
    """Price of an hour of one GPU, for the cost of the run; needs steps."""
    json: bool = False
    """Print one JSON object and nothing else."""

    def check(self) -> None:
        """Raises UserError if a value is out of range, the price would be ignored, or a GPU would have no prompt."""
        check_fields(self)
        if self.gpus > 1 and self.gpu in ("cpu", "mps"):
            raise UserError(f"--gpus {self.gpus}: {self.gpu} is this machine, of which there is one. Name a GPU.")
        if self.gpus > self.prompts:
            raise UserError(f"--gpus {self.gpus} is more than --prompts {self.prompts}: some would have nothing to do.")
        if self.price is not None and self.steps is None:
            raise UserError(f"--price {self.price:g} counts only with --steps: a run has no cost without a length.")
