"""What compare and continual share: a study's folder that can be gone on with, its tasks, its base, its tables."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from selfdistill import run_folder
from selfdistill.commands.eval import TaskRows
from selfdistill.evaluate.scorer_choice import chosen_task, with_chosen_judge
from selfdistill.settings.commands import ReportOptions
from selfdistill.settings.study import StudyOptions
from selfdistill.stats.scores import mean
from selfdistill.studies.arms import Arm
from selfdistill.tasks import resolve_data_dir
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.overlap import overlap_warning
from selfdistill.tasks.task import Task
from selfdistill.types import Example, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfdistill.studies.measures import Measures

STUDY, BASE = "study.json", "base.json"
HELD_OUT = 200
NOT_PRINTED = ("step", "steps", "tokens", "validation %")
"""Columns that only the report has: a console is narrow."""
PLACES = ("output_dir", "overwrite", "config", "data_dir", "eval_batch_size", "profile", "skip_memory_check")
"""Options that may differ when a study is gone on with: they change nothing that it finds."""
GROW = ("methods", "arm", "seeds", "learning_rates")
"""Options that may differ because each of their values has runs of its own: those that are done are not run again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A task with the rows to train on and the test of it."""

    task: Task
    train: list[Example]
    test: TaskRows


def subject(train_path: str | None, eval_path: str | None, name: str, study: StudyOptions, console: Console) -> Subject:
    """A named task, or a user's own rows, of which the last fifth is held out where ``eval_path`` is None.

    Raises:
        UserError: there is no such task or file, a row is bad, or the task needs a judge and none is named.
    """
    data_dir = resolve_data_dir(study.data_dir)
    evaluation = study.evaluation()
    if train_path is None:
        task = chosen_task(name, evaluation)
        train, rows = task.load_train(data_dir), task.load_eval(data_dir)
    else:
        task = replace(
            chosen_task(name, replace(evaluation, dataset_path=eval_path or train_path)),
            name=name,
            load_train=custom_task(train_path, None, name=name).load_train,
        )
        train = task.load_train(data_dir)
        rows = task.load_eval(data_dir) if eval_path else []
        if eval_path is None:
            count = min(HELD_OUT, len(train) // 5)
            train, rows = train[: len(train) - count], train[len(train) - count :]
    rows = first_rows(rows, study.eval_limit)
    if not rows:
        raise UserError(f"{train_path or name} has no evaluation rows: give five rows or more, or rows of their own.")
    train = train[: study.limit]
    if warning := overlap_warning(task, data_dir, train=train, evaluation=rows):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    task, judge = with_chosen_judge(task, evaluation, console)
    headline = next(iter(task.scorers))
    if headline in task.judged and judge is None:
        raise UserError(f"{task.name} is scored by a judge: give --judge_url and --judge_model, or another --scorer.")
    return Subject(task=task, train=train, test=TaskRows(task, rows, judge))


def first_rows(rows: list[Example], count: int | None) -> list[Example]:
    """The first ``count`` rows, in their order; of rows in parts the first of each, in proportion to its size."""
    parts: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        parts.setdefault(row.part, []).append(index)
    share = {index: (rank + 1) / len(part) for part in parts.values() for rank, index in enumerate(part)}
    return [rows[index] for index in sorted(sorted(share, key=lambda index: share[index])[:count])]


class StudyFolder:
    """The folder of a study, which the same command finds again.

    Args:
        command: compare or continual.
        options: the study's.
        subjects: what it trains on, is tested on and is scored by; other rows or another scorer make it another study.
        arms: what is compared; an arm may be new to the folder, but not be another one of the same name.

    Raises:
        UserError: the folder holds something else, or a study with other settings.
    """

    def __init__(self, command: str, options: StudyOptions, subjects: Sequence[Subject], arms: Sequence[Arm]) -> None:
        self.path = Path(str(options.output_dir))
        self._overwrite = options.overwrite
        self._versions = run_folder.versions()
        self._arms: dict[str, Any] = {arm.name: dict(arm.settings) for arm in arms}
        settings = {name: value for name, value in asdict(options).items() if name not in PLACES}
        facts = {"command": command, **settings}
        for each in subjects:
            name = each.task.name
            facts[f"training rows of {name}"] = fingerprint(each.train)
            facts[f"evaluation rows of {name}"] = fingerprint(each.test.examples)
            facts[f"scorer of {name}"] = next(iter(each.task.scorers))
        self._facts = json.loads(json.dumps(facts, default=str))
        if self._overwrite or not (self.path / STUDY).is_file():
            if self.path.is_file():
                raise UserError(f"--output_dir {self.path} is a file. Name a folder.")
            if self.path.is_dir() and any(self.path.iterdir()) and not self._overwrite:
                raise UserError(
                    f"--output_dir {self.path} is not empty and holds no {command}. Name another folder, or replace "
                    "it with --overwrite."
                )
            return
        self._go_on(json.loads((self.path / STUDY).read_text(encoding="utf-8")))

    def _go_on(self, before: Mapping[str, Any]) -> None:
        """Checks that the study in the folder is this one, and takes over its arms and the versions it began with."""
        names = [name for name in before["settings"] | self._facts if name not in GROW]
        pairs = {name: (before["settings"].get(name), self._facts.get(name)) for name in names}
        pairs |= {f"arm {name}": (before["arms"].get(name, own), own) for name, own in self._arms.items()}
        for name, (old, new) in pairs.items():
            if old != new:
                raise UserError(
                    f"{self.path} holds a study with another {name}: {json.dumps(old)[:40]}, now "
                    f"{json.dumps(new)[:40]}. Start the same command, name another --output_dir, or give --overwrite."
                )
        self._arms = before["arms"] | self._arms
        self._versions = before["versions"]

    def open(self) -> bool:
        """Makes the folder, emptied where it is to be overwritten; True where a study there is gone on with."""
        if self._overwrite:
            shutil.rmtree(self.path, ignore_errors=True)
        found = (self.path / STUDY).is_file()
        facts = {"versions": self._versions, "settings": self._facts, "arms": self._arms}
        run_folder.write_json(self.path / STUDY, facts)
        return found

    def find(self, place: str) -> Any:
        """The value of a JSON file in it; None if there is no such file."""
        path = self.path / place
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def fingerprint(rows: Sequence[Example]) -> str:
    """Twelve hex digits that change with any row or their order."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(json.dumps(asdict(row), sort_keys=True, default=str).encode())
    return sha.hexdigest()[:12]


def check_arms(arms: Sequence[Arm], subjects: Sequence[Subject], measures: "Measures") -> None:
    """Builds every arm's settings and prompts once, so that what is wrong shows before anything is computed or deleted.

    Raises:
        UserError: a setting is unknown or out of range, a prompt is over its limit, the model is not there, or
            there is too little memory.
    """
    from selfdistill.commands.train import check_before_loading

    for arm in arms:
        for each in subjects:
            check_before_loading(arm.options, each.task, each.train, measures.tokenizer)


def base_of(
    folder: StudyFolder, measures: "Measures", arms: Sequence[Arm], subjects: Sequence[Subject], console: Console
) -> dict[str, Any]:
    """Scores of the base model, and ``templates``: task to (template, repeat) for arms that leave it to a preflight.

    Measured once and kept in base.json, its evaluation in eval-before; templates when the first arm asks for them.

    Raises:
        UserError: no way of showing the demonstration makes a teacher that is better than the base.
    """
    found = folder.find(BASE)
    asks = next((arm for arm in arms if arm.needs_template), None)
    if found is not None and (asks is None or found["templates"]):
        return found
    if found is None:
        console.print("Scoring the base model ...")
    model = measures.load_base()
    if found is None:
        measured = measures.measure(model, is_base=True)
        measured.write(folder.path / "eval-before")
        found = measured.entry()
    templates = {each.task.name: _template(asks, each, model, measures, console) for each in subjects if asks}
    found = found | {"templates": templates}
    run_folder.write_json(folder.path / BASE, found)
    return found


def _template(
    arm: Arm, subject: Subject, model: "PreTrainedModel", measures: "Measures", console: Console
) -> tuple[str, int]:
    from selfdistill.commands.preflight import choose_template
    from selfdistill.commands.train import trainer_config

    args = trainer_config(arm.options, subject.task, subject.train, measures.tokenizer)
    return choose_template(arm.options, args, model, measures.tokenizer, subject.task, subject.train, console)


def describe(entry: Mapping[str, Any]) -> str:
    """``assistant-tools 62.5%, prior 43.1%, KL 0.061`` of a model's scores."""
    texts = [f"{name} {numbers['accuracy']:.1%}" for name, numbers in entry["tasks"].items()]
    if prior := entry["prior"]:
        texts.append(f"prior {mean(list(prior.values())):.1%}")
    if entry["drift"]:
        texts.append(f"KL {entry['drift']['kl_per_token']:.3f}")
    return escape(", ".join(texts))


def finish(folder: StudyFolder, tables: Sequence[str], console: Console) -> None:
    """Prints the report's tables of these names, then writes the report."""
    from selfdistill.commands import report
    from selfdistill.report import collect, formats
    from selfdistill.report.tables import all_tables

    for table in all_tables(collect.collect(folder.path)):
        if not any(table.name.startswith(name) for name in tables):
            continue
        shown = RichTable(title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        places = [place for place, column in enumerate(table.columns) if column.title not in NOT_PRINTED]
        for column in (table.columns[place] for place in places):
            shown.add_column(column.title, justify="left" if column.kind == "text" else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*(escape(formats.cell_text(table.columns[place].kind, row[place])) for place in places))
        console.print(shown)
    report.run(ReportOptions(folder=str(folder.path)), console)


def free_memory() -> None:
    """Gives back the memory of models that nothing refers to any more."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
