"""``selfdistill compare``."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.commands.eval import TaskRows
from selfdistill.settings.commands import TrainOptions
from selfdistill.settings.study import CompareOptions
from selfdistill.studies.analysis import best_rate, equal_skill, paired_tests
from selfdistill.studies.arms import Arm, parse_arms, parse_rates
from selfdistill.studies.folder import StudyFolder, Subject, base_of, check_arms, describe, finish, free_memory, subject
from selfdistill.tasks.task import BatchScorer
from selfdistill.types import Example, UserError

COMPARE, CELL = "compare.json", "cell.json"
TABLES = ("compare", "tests", "equal_skill")
"""Tables of the report that are printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training run."""

    arm: Arm
    rate: float
    seed: int
    swept: bool
    """Whether its validation accuracy helps to choose the arm's rate."""

    @property
    def place(self) -> str:
        """Its folder inside the study's."""
        return f"{self.arm.name}/lr-{self.rate:g}/seed-{self.seed}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.arm.name}, lr {self.rate:g}, seed {self.seed}"


def run(options: CompareOptions, console: Console) -> None:
    """Runs every cell that isn't done, then says how the arms compare.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()
    comparison = Comparison(options, console)
    cells = comparison.run()
    run_folder.write_json(comparison.folder.path / COMPARE, comparison.conclude(cells))
    finish(comparison.folder, TABLES, console)


class Comparison:
    """A comparison: its arms, data and folder.

    Raises:
        UserError: a setting, a row or the folder is not usable.
    """

    def __init__(self, options: CompareOptions, console: Console) -> None:
        self.options = options
        self.console = console
        self.arms = parse_arms(options, default="sdft,sft")
        self.rates = parse_rates(options.learning_rates, self.arms)
        self.seeds = options.seed_list()
        name = Path(options.dataset_path).stem if options.dataset_path else options.dataset_name
        self.subject = subject(options.dataset_path, options.eval_path, name, options, console)
        self.validation: TaskRows | None = None
        if any(len(rates) > 1 for rates in self.rates.values()):
            self.subject, self.validation = hold_back(self.subject, options.validation_rows)
        self.folder = StudyFolder("compare", options, [self.subject], self.arms)
        from selfdistill.models import loading
        from selfdistill.studies.measures import Measures

        loading.quiet_libraries()
        self.measures = Measures([self.subject.test], options, console)
        self._number = 0
        self._announced: set[str] = set()  # arms whose settings were told
        self._num_cells = sum(len(rates) + len(self.seeds) - 1 for rates in self.rates.values())

    def run(self) -> list[dict[str, Any]]:
        """Every cell's record: first all rates on the first seed, then the other seeds with the rates chosen."""
        check_arms(self.arms, [self.subject], self.measures)
        if self.folder.open():
            self.console.print(f"Going on with the study in {escape(str(self.folder.path))}.")
        _ = self.base
        first, *others = self.seeds
        records = [self._record(cell) for cell in self._first_cells(first)]
        for arm in self.arms:
            rate = self.chosen(arm, records)
            self._say_choice(arm, rate, records)
            records += [self._record(Cell(arm=arm, rate=rate, seed=seed, swept=False)) for seed in others]
        if len({record["num_rows"] for record in records}) > 1:
            self.console.print("[yellow]Warning:[/yellow] a length limit dropped more rows of one arm than of another.")
        return records

    @cached_property
    def base(self) -> dict[str, Any]:
        """The base model's scores, and templates."""
        return base_of(self.folder, self.measures, self.arms, [self.subject], self.console)

    def chosen(self, arm: Arm, records: Sequence[dict[str, Any]]) -> float:
        """The arm's rate: the only one, or the best on the validation rows."""
        tried = [r for r in records if r["method"] == arm.name and r["validation"] is not None]
        if not tried:
            return self.rates[arm.name][0]
        return best_rate({r["learning_rate"]: r["validation"]["accuracy"] for r in tried})

    def _say_choice(self, arm: Arm, rate: float, records: Sequence[dict[str, Any]]) -> None:
        tried = {r["learning_rate"]: r["validation"] for r in records if r["method"] == arm.name and r["validation"]}
        if len(tried) < 2:
            return
        accuracies = ", ".join(f"{value:g} {found['accuracy']:.1%}" for value, found in tried.items())
        alike = len({found["accuracy"] for found in tried.values()}) == 1
        taken = f"no rate is better than another, lr {rate:g} is taken" if alike else f"lr {rate:g} is taken"
        self.console.print(f"{escape(arm.name)} on the validation rows: {accuracies}; {taken}")

    def conclude(self, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What compare.json holds."""
        chosen = {arm.name: self.chosen(arm, records) for arm in self.arms}
        final = [r for r in records if r["learning_rate"] == chosen[r["method"]]]
        task = self.subject.task.name
        scores: dict[str, dict[int, list[float | None]]] = {arm.name: {} for arm in self.arms}
        runs: dict[str, dict[int, list[dict[str, Any]]]] = {arm.name: {} for arm in self.arms}
        for record in final:
            numbers = self.folder.find(f"{record['run']}/eval/{task}.json")
            scores[record["method"]][record["seed"]] = numbers["per_sample_scores"]
            runs[record["method"]][record["seed"]] = record["entries"]
        base = _entry(self.base, task) | {"step": 0, "tokens": 0, "wall_s": 0.0}
        return {
            "dataset": task,
            "metric": next(iter(self.subject.task.scorers)),
            "arms": [
                {"name": arm.name, "settings": arm.settings, "learning_rate": chosen[arm.name]} for arm in self.arms
            ],
            "seeds": self.seeds,
            "budget": {
                "of": self.options.budget,
                "amount": self.options.budget_amount or records[0]["entries"][-1]["step"],
            },
            "base": base,
            "entries": [
                {**entry, "chosen": record in final, "validation": record["validation"], "run": record["run"]}
                for record in records
                for entry in record["entries"]
            ],
            "tests": paired_tests(scores),
            "equal_skill": equal_skill(base, runs),
        }

    def _first_cells(self, seed: int) -> Iterator[Cell]:
        for arm in self.arms:
            rates = self.rates[arm.name]
            yield from (Cell(arm=arm, rate=rate, seed=seed, swept=len(rates) > 1) for rate in rates)

    def _record(self, cell: Cell) -> dict[str, Any]:
        """The cell's record: what an earlier start has left, or that of a run made now."""
        self._number += 1
        title = escape(f"cell {self._number} of {self._num_cells}: {cell.title}")
        found = self.folder.find(f"{cell.place}/{CELL}")
        if found is not None and not (cell.swept and found["validation"] is None):  # the arm had one rate only
            self.console.print(f"[bold]{title}[/bold]: done before")
            return found
        self.console.print(f"[bold]{title}[/bold]")
        record = self._train(cell)
        run_folder.write_json(self.folder.path / cell.place / CELL, record)
        free_memory()
        return record

    def _train(self, cell: Cell) -> dict[str, Any]:
        from transformers import set_seed

        from selfdistill.commands.train import make_trainer
        from selfdistill.studies.budget import Checkpoints, Spent

        folder = self.folder.path / cell.place
        shutil.rmtree(folder, ignore_errors=True)  # of a start that was interrupted
        task, examples = self.subject.task, self.subject.train
        self.measures.prepare()
        model = self.measures.load_base()
        options = self._train_options(cell, folder)
        set_seed(cell.seed)  # adapters begin with random weights
        quiet = cell.arm.name in self._announced
        self._announced.add(cell.arm.name)
        trainer = make_trainer(options, task, examples, model, self.measures.tokenizer, self.console, quiet=quiet)
        entries: list[dict[str, Any]] = []
        validation: dict[str, Any] | None = None

        def look(spent: Spent, last: bool) -> None:
            nonlocal validation
            measured = self.measures.measure(trainer.model)
            found = measured.entry()
            self.console.print(f"  step {spent.step}, {spent.wall_s:.0f} s: {describe(found)}")
            facts = {"method": cell.arm.name, "learning_rate": cell.rate, "seed": cell.seed, "step": spent.step}
            entries.append(facts | _entry(found, task.name) | {"tokens": spent.tokens, "wall_s": spent.wall_s})
            if last:
                measured.write(folder / "eval")
            if last and cell.swept and self.validation is not None:
                accuracy = self.measures.accuracy(trainer.model, self.validation)
                validation = {"accuracy": accuracy, "num_rows": len(self.validation.examples)}

        budget, amount = self.options.budget, self.options.budget_amount
        trainer.add_callback(Checkpoints(trainer, budget, amount, self.options.checkpoints, look))
        trainer.train()
        if not entries:
            raise UserError(f"{cell.title}: the budget is spent before the first step. Raise --budget_amount.")
        if self.options.save_models:
            trainer.save_model()
        facts = {"method": cell.arm.name, "learning_rate": cell.rate, "seed": cell.seed, "run": cell.place}
        return facts | {"num_rows": trainer.num_rows, "validation": validation, "entries": entries}

    def _train_options(self, cell: Cell, folder: Path) -> TrainOptions:
        from selfdistill.progress import NO_STEP_LIMIT

        data = {"dataset_name": self.subject.task.name, "dataset_path": None}
        options = replace(cell.arm.options, output_dir=str(folder), seed=cell.seed, learning_rate=cell.rate, **data)
        if self.options.budget != "steps":
            options.max_steps = NO_STEP_LIMIT
        elif self.options.budget_amount is not None:
            options.max_steps = int(self.options.budget_amount)
        if cell.arm.needs_template:
            options.template, options.template_repeat = self.base["templates"][self.subject.task.name]
        return options


def hold_back(whole: Subject, count: int) -> tuple[Subject, TaskRows]:
    """The task without its last ``count`` training rows, and these as a test that chooses learning rates.

    Raises:
        UserError: no training row would be left, or the scorer can't grade them.
    """
    if count >= len(whole.train):
        raise UserError(f"--validation_rows {count} leaves none of the {len(whole.train)} training rows. Lower it.")
    train, held = whole.train[:-count], whole.train[-count:]
    scorer = next(iter(whole.task.scorers.values()))
    if not isinstance(scorer, BatchScorer) and not any(_gradable(scorer, row) for row in held):
        raise UserError(
            f"{whole.task.name}: its scorer can't grade training rows, so no learning rate can be chosen. "
            "Give one rate an arm."
        )
    return replace(whole, train=train), TaskRows(whole.task, held, whole.test.judge)


def _gradable(scorer: Any, row: Example) -> bool:
    return scorer(row.demonstration_text, row) is not None


def _entry(measured: dict[str, Any], task: str) -> dict[str, Any]:
    return {"new_task": measured["tasks"][task], "prior": measured["prior"], "drift": measured["drift"]}
