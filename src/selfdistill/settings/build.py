"""What ``build`` takes."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from selfdistill.errors import UserError
from selfdistill.settings.fields import at_least, check_fields, path
from selfdistill.types import Dtype


@dataclass(frozen=True, kw_only=True)
class MedicalOptions:
    """For medical only."""

    source: str | None = path()
    """HuatuoGPT-o1 rows, a file or Hub id such as FreedomIntelligence/medical-o1-reasoning-SFT."""
    hub_config: str | None = None
    """Configuration of the source on the Hub, such as en."""
    answers: str | None = path()
    """Rows with the ground truths, a file or Hub id, where the source has none."""


@dataclass(frozen=True, kw_only=True)
class WikiOptions:
    """For wiki only."""

    articles: str | None = path()
    """Folder of .txt and .md files, an article each."""
    model_name: str | None = path()
    """Model that writes the questions; one of some billion weights, small ones get the facts wrong."""
    questions_per_passage: int = at_least(1, 4)
    """Questions to ask for."""
    batch_size: int = at_least(1, 32)
    """Passages read together."""
    dtype: Dtype = "auto"
    """Dtype to compute in."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Write the data of a task that doesn't come ready-made."""

    task: Annotated[Literal["medical", "wiki"], tyro.conf.Positional] = "medical"
    """Task to write the data of."""
    output_dir: str | None = path()
    """Folder for <task>_data, to be named with --data_dir later."""
    num_eval: int | None = at_least(1, None)
    """Rows to hold out for evaluation, for wiki of each kind; by default a tenth."""
    limit: int | None = at_least(1, None)
    """Use only the first so many rows or passages."""
    seed: int = 42
    """Seed of the split and of the model's questions."""
    overwrite: bool = False
    """Replace data that are in output_dir."""
    medical: MedicalOptions = MedicalOptions()
    wiki: WikiOptions = WikiOptions()

    def check(self) -> None:
        """Raises UserError for what can be seen before anything is loaded."""
        check_fields(self)
        check_fields(self.wiki)
        if self.output_dir is None:
            raise UserError("--output_dir is missing: name a folder for the data.")
        needed = {"medical": ("source",), "wiki": ("articles", "model_name")}[self.task]
        for name in needed:
            if getattr(getattr(self, self.task), name) is None:
                raise UserError(f"build {self.task}: --{name} is missing.")
        other = self.wiki if self.task == "medical" else self.medical
        for name, value in vars(other).items():
            if value != getattr(type(other)(), name):
                raise UserError(f"build {self.task} takes no --{name}. Leave it out.")
