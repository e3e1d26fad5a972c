"""Options of ``init``, its questions, and the commented YAML file that it writes."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal, get_args

import tyro

from selfdistill.errors import UserError
from selfdistill.run_folder import write_text
from selfdistill.settings.fields import at_least, check_fields, data, path
from selfdistill.settings.groups import DEFAULT_MODEL
from selfdistill.settings.sources import matching, sources
from selfdistill.settings.train import TrainOptions
from selfdistill.settings.yaml_files import options_from_file

Method = Literal["sft", "sdft", "dft", "offline", "cpt"]
"""The methods that need nothing but rows and a model."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]*)?(@[\w./-]+)?")
ANCHORED = 0.25
"""Share of general prompts in a batch, for the methods that take demonstrations as targets."""


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """Ask five questions and write a commented YAML file for `train --config`. What a flag answers is not asked."""

    file: Annotated[str, tyro.conf.Positional] = path("selfdistill.yaml")
    """The file to write. It must not exist."""
    dataset_path: str | None = data()
    """Your rows: files, folders, patterns or Hub ids."""
    model_name: str | None = path()
    """Model to train: Hub id, folder, .gguf file, or smollm2-135m, which is embedded."""
    method: Method | None = None
    """How to train; without a terminal sft."""
    lora_r: int | None = at_least(0, None)
    """Rank of an adapter; 0, and without a terminal, for all weights."""
    output_dir: str | None = path()
    """Folder of the run; without a terminal runs/ and the file's name."""

    def check(self) -> None:
        """Raises UserError if a value is not allowed, or the file is there."""
        check_fields(self)
        if self.method is not None and self.method not in get_args(Method):
            raise UserError(f"--method {self.method!r} is not one of {', '.join(get_args(Method))}.")
        if os.path.lexists(self.file):
            raise UserError(f"{self.file} exists. Name another file, or delete it.")
        if self.dataset_path is not None:
            check_rows(self.dataset_path)


def check_rows(text: str) -> None:
    """Raises UserError if rows are named that are neither here nor can be on the Hub."""
    for source in sources(text):
        for name in matching(source.name):
            if not Path(name).exists() and not HUB_ID.fullmatch(name):
                raise UserError(f"--dataset_path {name}: no such file or folder, and no Hub id (owner/name).")


def answered(options: InitOptions, ask: Callable[[str, str], str] | None) -> InitOptions:
    """The options with every question answered.

    Args:
        options: what flags have answered.
        ask: asks a question with a default and returns the answer; None if there is nobody to ask.

    Raises:
        UserError: nobody can be asked and something without a default is missing, or an answer is not allowed.
    """
    place = f"runs/{Path(options.file).stem}"
    questions = {
        "dataset_path": ("Your rows (a file, folder, pattern or Hub id)", ""),
        "model_name": ("Model (Hub id, folder, .gguf file, or the embedded one)", DEFAULT_MODEL if ask else ""),
        "method": (
            "Method: sft holds the model to the demonstrations, a quarter of each batch to what it was; sdft is "
            "self-distillation; or dft, offline, cpt",
            "sft",
        ),
        "lora_r": ("Rank of an adapter, which takes less memory; 0 for all weights", "0"),
        "output_dir": ("Folder of the run", place),
    }
    missing = [name for name, (_, default) in questions.items() if getattr(options, name) is None and not default]
    if ask is None and missing:
        raise UserError(
            f"init: there is no terminal to ask in. Give {' and '.join(f'--{name}' for name in missing)}, and what "
            "else should not have its default."
        )
    for name, (question, default) in questions.items():
        if getattr(options, name) is None:
            said = (ask(question, default).strip() if ask else "") or default
            options = replace(options, **{name: _read(name, said)})
            options.check()
    return options


def write_file(options: InitOptions) -> None:
    """Writes the file, once it is known that ``train`` takes it. Raises UserError if ``train`` refuses a setting."""
    text = yaml_text(options)
    with TemporaryDirectory() as folder:
        tried = Path(folder) / Path(options.file).name
        tried.write_text(text, encoding="utf-8")
        options_from_file(TrainOptions, str(tried)).check()
    write_text(Path(options.file), text)


def commands(options: InitOptions) -> list[tuple[str, str]]:
    """Three commands to run, and what each does."""
    train = f"selfdistill train --config {_word(options.file)}"
    return [
        (f"{train} --dry_run", "shows prompts, lengths and memory, and trains nothing"),
        (train, "trains; the same command goes on where it was stopped"),
        (f"selfdistill report {_word(str(options.output_dir))}", "writes a page on it"),
    ]


def yaml_text(options: InitOptions) -> str:
    """The file: every line that is often changed, with what it means."""
    adapter, method = options.lora_r or 0, str(options.method)
    lines = [
        "# Settings of `selfdistill train --config FILE`. Flags override them; `selfdistill train --help` lists all.",
        "",
        "# Rows: `selfdistill data` says what is understood of them. Several: a.jsonl:2,b.jsonl:1.",
        f"dataset_path: {json.dumps(options.dataset_path)}",
        "# eval_share: 0.1         # rows held out of training, by a hash of their prompt",
        "",
        f"model_name: {json.dumps(options.model_name)}",
        "# dtype: bfloat16         # of the computation; by default whichever is fast here",
        "",
        "# sdft: the student samples, itself shown the demonstration scores. sft, dft, cpt: demonstrations as targets.",
        f"method: {method}",
        *_of_the_method(method),
        "",
        *(
            [f"lora_r: {adapter}", f"# lora_alpha: {2 * adapter}"]
            if adapter
            else ["# lora_r: 16               # an adapter instead of all weights"]
        ),
        f"learning_rate: {'2e-4' if adapter else '2e-5'}      # the one setting to try several values of",
        "num_train_epochs: 2",
        "per_device_train_batch_size: 4",
        "gradient_accumulation_steps: 8   # a step takes this many times as many prompts",
        "",
        f"output_dir: {json.dumps(options.output_dir)}",
        "# save_steps: 50          # checkpoints, from which a stopped run goes on",
    ]
    return "\n".join(lines) + "\n"


def _of_the_method(method: str) -> list[str]:
    if method in ("sdft", "offline"):
        return ["template: auto           # how the teacher is shown the demonstration: a preflight tries them"]
    if method in ("sft", "dft"):
        return [
            f"anchor_share: {ANCHORED}       # general prompts in each batch, held to the start model: less is lost"
        ]
    return []


def _read(name: str, said: str) -> str | int:
    if name != "lora_r":
        return said
    if not said.isdecimal():
        raise UserError(f"--lora_r {said!r} is not a whole number, such as 16, or 0 for all weights.")
    return int(said)


def _word(text: str) -> str:
    """The text as one word of a shell."""
    return text if re.fullmatch(r"[\w./~+-]+", text) else "'" + text.replace("'", "'\\''") + "'"
