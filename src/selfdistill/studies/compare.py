"""A comparison: several arms on the same rows, seed by seed, with checkpoints on the way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.evaluate.scorer_choice import TaskRows
from selfdistill.records.evaluations import EvalRecord
from selfdistill.records.studies import ArmRecord, BaseRecord, CellRecord, Checkpoint, CompareRecord, Measurements
from selfdistill.settings.study import CompareOptions
from selfdistill.studies.analysis import best_rate, equal_skill, paired_tests
from selfdistill.studies.arms import Arm, parse_arms, parse_rates
from selfdistill.studies.budget import BudgetCallback, Spent
from selfdistill.studies.folder import StudyFolder
from selfdistill.studies.fronts import fronts, verdict
from selfdistill.studies.measures import Meter, in_words
from selfdistill.studies.runs import StudyRuns, free_memory
from selfdistill.studies.subjects import Subject, hold_back, named_subject, own_subject
from selfdistill.training.progress import NO_STEP_LIMIT


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


class Comparison:
    """A comparison: its arms, data and folder.

    Raises:
        UserError: a setting, a row or the folder is not usable.
    """

    def __init__(self, options: CompareOptions, console: Console) -> None:
        self.options, self.console = options, console
        self.arms = parse_arms(options.arms, options.recipe, default="sdft,sft")
        self.rates = parse_rates(options.learning_rates, self.arms)
        self.seeds = options.seed_list()
        self.subject = _subject(options, console)
        self.validation: TaskRows | None = None
        if any(len(rates) > 1 for rates in self.rates.values()):
            self.subject, self.validation = hold_back(self.subject, options.validation_rows)
        self.folder = StudyFolder("compare", options, [self.subject], self.arms)
        self.meter = Meter([self.subject.test], options.measures, options.recipe, console)
        self.runs = StudyRuns(self.folder, self.meter, console)
        self._number = 0
        self._num_cells = sum(len(rates) + len(self.seeds) - 1 for rates in self.rates.values())

    def run(self) -> CompareRecord:
        """Runs every cell that isn't done: first all rates on the first seed, then the other seeds with the rates
        chosen. Writes compare.json and returns what it holds.

        Raises:
            UserError: an arm can't be trained, or nothing can be scored.
        """
        self.runs.check(self.arms, [self.subject])
        if self.folder.open():
            self.console.print(f"Going on with the study in {escape(str(self.folder.path))}.")
        _ = self.base
        first, *others = self.seeds
        cells = [self._record(cell) for cell in self._first_cells(first)]
        for arm in self.arms:
            rate = self.chosen(arm, cells)
            self._say_choice(arm, rate, cells)
            cells += [self._record(Cell(arm=arm, rate=rate, seed=seed, swept=False)) for seed in others]
        if len({cell.num_rows for cell in cells}) > 1:
            self.console.print("[yellow]Warning:[/yellow] a length limit dropped more rows of one arm than of another.")
        found = self.conclude(cells)
        run_folder.write_json(self.folder.path / run_folder.COMPARE, found)
        return found

    @cached_property
    def base(self) -> BaseRecord:
        """The base model's scores, and templates."""
        return self.runs.base(self.arms, [self.subject])

    def chosen(self, arm: Arm, cells: Sequence[CellRecord]) -> float:
        """The arm's rate: the only one, or the best on the validation rows."""
        tried = {c.learning_rate: c.validation for c in cells if c.arm == arm.name and c.validation is not None}
        return best_rate(tried) if tried else self.rates[arm.name][0]

    def conclude(self, cells: Sequence[CellRecord]) -> CompareRecord:
        """What compare.json holds."""
        rates = {arm.name: self.chosen(arm, cells) for arm in self.arms}
        arms = [
            ArmRecord(
                name=arm.name,
                settings=dict(arm.settings),
                learning_rate=rates[arm.name],
                distils=arm.distils,
                anchor_share=arm.anchor_share,
            )
            for arm in self.arms
        ]
        return conclude(
            self.folder.path,
            cells,
            arms,
            base=checkpoint(self.base.measured, self.subject.name, "", Spent(step=0, tokens=0, seconds=0.0)),
            dataset=self.subject.name,
            metric=next(iter(self.subject.task.scorers)),
            seeds=self.seeds,
            budget=(self.options.budget, self.options.budget_amount or cells[0].checkpoints[-1].step),
        )

    def _say_choice(self, arm: Arm, rate: float, cells: Sequence[CellRecord]) -> None:
        tried = {c.learning_rate: c.validation for c in cells if c.arm == arm.name and c.validation is not None}
        if len(tried) < 2:
            return
        accuracies = ", ".join(f"{value:g} {found:.1%}" for value, found in tried.items())
        alike = len(set(tried.values())) == 1
        taken = f"no rate is better than another, lr {rate:g} is taken" if alike else f"lr {rate:g} is taken"
        self.console.print(f"{escape(arm.name)} on the validation rows: {accuracies}; {taken}")

    def _first_cells(self, seed: int) -> Iterator[Cell]:
        for arm in self.arms:
            rates = self.rates[arm.name]
            yield from (Cell(arm=arm, rate=rate, seed=seed, swept=len(rates) > 1) for rate in rates)

    def _record(self, cell: Cell) -> CellRecord:
        """The cell's record: what an earlier start has left, or that of a run made now."""
        self._number += 1
        title = escape(f"cell {self._number} of {self._num_cells}: {cell.title}")
        found = self.folder.find(f"{cell.place}/{run_folder.CELL}", CellRecord)
        if found is not None and not (cell.swept and found.validation is None):  # the arm had one rate only
            self.console.print(f"[bold]{title}[/bold]: done before")
            return found
        self.console.print(f"[bold]{title}[/bold]")
        record = self._train(cell)
        run_folder.write_json(self.folder.path / cell.place / run_folder.CELL, record)
        free_memory()
        return record

    def _train(self, cell: Cell) -> CellRecord:
        folder = self.folder.path / cell.place
        self.meter.prepare()
        prepared = self.runs.prepared(cell.arm, self.subject, self._settings(cell, folder))
        trainer = self.runs.trainer(cell.arm, prepared, self.meter.load_base())
        checkpoints: list[Checkpoint] = []
        validation: float | None = None

        def look(spent: Spent, last: bool) -> None:
            nonlocal validation
            measured = self.meter.measure(trainer.model)
            numbers = measured.numbers()
            self.console.print(f"  step {spent.step}, {spent.seconds:.0f} s: {in_words(numbers)}")
            checkpoints.append(checkpoint(numbers, self.subject.name, cell.arm.name, spent, cell.rate, cell.seed))
            if last:
                measured.write(folder / run_folder.EVAL)
            if last and cell.swept and self.validation is not None:
                validation = self.meter.accuracy(trainer.model, self.validation)

        options = self.options
        trainer.add_callback(BudgetCallback(trainer, options.budget, options.budget_amount, options.checkpoints, look))
        trainer.train()
        if not checkpoints:
            raise UserError(f"{cell.title}: the budget is spent before the first step. Raise --budget_amount.")
        if options.save_models:
            trainer.save_model()
        return CellRecord(
            arm=cell.arm.name,
            learning_rate=cell.rate,
            seed=cell.seed,
            run=cell.place,
            num_rows=trainer.num_rows,
            validation=validation,
            checkpoints=checkpoints,
        )

    def _settings(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """What a cell sets of its arm's settings."""
        settings: dict[str, Any] = {"output_dir": str(folder), "seed": cell.seed, "learning_rate": cell.rate}
        if self.options.budget != "steps":
            settings["max_steps"] = NO_STEP_LIMIT
        elif self.options.budget_amount is not None:
            settings["max_steps"] = int(self.options.budget_amount)
        return settings | self.runs.template_settings(cell.arm, self.subject, self.base)


def checkpoint(
    measured: Measurements, task: str, arm: str, spent: Spent, learning_rate: float = 0.0, seed: int = 0
) -> Checkpoint:
    """A model's scores at one point of a run."""
    return Checkpoint(
        arm=arm,
        learning_rate=learning_rate,
        seed=seed,
        step=spent.step,
        tokens=spent.tokens,
        seconds=spent.seconds,
        skill=measured.tasks[task],
        prior=measured.prior,
        drift=measured.drift,
    )


def conclude(
    folder: Path,
    cells: Sequence[CellRecord],
    arms: list[ArmRecord],
    *,
    base: Checkpoint,
    dataset: str,
    metric: str,
    seeds: list[int],
    budget: tuple[Any, float],
) -> CompareRecord:
    """A comparison's record, made of its cells and the evaluations in their folders."""
    rates = {arm.name: arm.learning_rate for arm in arms}
    checkpoints = [
        replace(each, chosen=cell.learning_rate == rates[cell.arm], validation=cell.validation, run=cell.run)
        for cell in cells
        for each in cell.checkpoints
    ]
    scores: dict[str, dict[int, list[float | None]]] = {arm.name: {} for arm in arms}
    for cell in cells:
        if cell.learning_rate == rates[cell.arm]:
            last = folder / cell.run / run_folder.EVAL / run_folder.results_file(dataset)
            scores[cell.arm][cell.seed] = run_folder.read_record(last, EvalRecord).per_sample_scores
    found = CompareRecord(
        dataset=dataset,
        metric=metric,
        arms=arms,
        seeds=seeds,
        budget=budget[0],
        budget_amount=budget[1],
        base=base,
        checkpoints=checkpoints,
        tests=paired_tests(scores),
        equal_skill=[],
        fronts=[],
        verdict="",
    )
    runs = found.runs()
    seen = fronts(base, runs)
    told = verdict(seen, {arm.name: arm.distils for arm in arms}, len(seeds))
    return replace(found, equal_skill=equal_skill(base, runs), fronts=seen, verdict=told)


def _subject(options: CompareOptions, console: Console) -> Subject:
    source, data, measures = options.source, options.recipe.data, options.measures
    if source.dataset_path is None:
        return named_subject(source.dataset_name, data, measures, console)
    return own_subject(source.dataset_path, options.eval_path, data, measures, console)
