"""Options of ``build``."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from selfdistill.errors import UserError
from selfdistill.settings.fields import at_least, check_fields, path
from selfdistill.types import Dtype


@dataclass(frozen=True, kw_only=True)
class MedicalOptions:
    """Options of the task medical."""

    source: str | None = path()
    """HuatuoGPT-o1 rows: a file, or a Hub id such as FreedomIntelligence/medical-o1-reasoning-SFT:en (its configuration
    en)."""
    answers: str | None = path()
    """Rows with the reference answers, if the source has none: a file or Hub id."""


@dataclass(frozen=True, kw_only=True)
class WikiOptions:
    """Options of the task wiki."""

    articles: str | None = path()
    """Folder of .txt and .md files, one article per file."""
    model_name: str | None = path()
    """Model that writes the questions; it should have billions of weights, since small ones get the facts wrong."""
    judge_url: str | None = None
    """A server's model writes them instead: base URL of an OpenAI-compatible API. Its key is read from
    OPENAI_API_KEY."""
    judge_model: str | None = None
    """The model's name on that server."""
    questions_per_passage: int = at_least(1, 4)
    """Questions to write per passage."""
    batch_size: int = at_least(1, 32)
    """Passages processed together."""
    dtype: Dtype = "auto"
    """Dtype to compute in."""

    def check_author(self) -> None:
        """Raises UserError unless exactly one model is named to write the questions, or if a setting would be
        ignored."""
        if self.judge_url is None and self.judge_model is None:
            if self.model_name is None:
                raise UserError(
                    "build wiki: name who writes the questions: --model_name, or a server's --judge_url and "
                    "--judge_model."
                )
            return
        if self.judge_url is None or self.judge_model is None:
            missing = "judge_url" if self.judge_url is None else "judge_model"
            raise UserError(f"build wiki: --{missing} is missing; --judge_url and --judge_model go together.")
        for name in ("model_name", "batch_size", "dtype"):
            if (value := getattr(self, name)) != getattr(WikiOptions, name):
                raise UserError(
                    f"--{name} {value} changes nothing where --judge_url writes the questions. Leave it out."
                )


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Write the data of a task that has to be prepared first."""

    task: Annotated[Literal["medical", "wiki"], tyro.conf.Positional] = "medical"
    """Task to prepare."""
    output_dir: str | None = path()
    """Folder in which <task>_data is created. Give it as --data_dir afterwards."""
    num_eval: int | None = at_least(1, None)
    """Rows to hold out for evaluation (wiki: of each kind of question); by default a tenth."""
    limit: int | None = at_least(1, None)
    """Use only the first N rows or passages."""
    seed: int = 42
    """Seed of the split and of the model's questions."""
    overwrite: bool = False
    """Replace data already in output_dir."""
    medical: MedicalOptions = MedicalOptions()
    wiki: WikiOptions = WikiOptions()

    def check(self) -> None:
        """Checks what can be checked before anything is loaded. Raises UserError."""
        check_fields(self)
        check_fields(self.wiki)
        if self.output_dir is None:
            raise UserError("--output_dir is missing: name a folder for the data.")
        needed = {"medical": ("source",), "wiki": ("articles",)}[self.task]
        for name in needed:
            if getattr(getattr(self, self.task), name) is None:
                raise UserError(f"build {self.task}: --{name} is missing. See selfdistill build --help.")
        other = self.wiki if self.task == "medical" else self.medical
        for name, value in vars(other).items():
            if value != getattr(type(other)(), name):
                raise UserError(f"build {self.task} takes no --{name}. Leave it out.")
        if self.task == "wiki":
            self.wiki.check_author()
