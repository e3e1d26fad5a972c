"""``compare``: trains several arms on the same rows with several seeds, and evaluates each run at checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from selfdistill.studies.elsewhere import order
from selfdistill.studies.folder import StudyFolder
from selfdistill.studies.fronts import fronts, verdict
from selfdistill.studies.measures import Meter, in_words
from selfdistill.studies.ray_executor import chosen_executor
from selfdistill.studies.runs import StudyRuns, put
from selfdistill.studies.sharing import Sharing
from selfdistill.studies.subjects import Subject, hold_back, named_subject, own_subject
from selfdistill.studies.work import Bench, Job
from selfdistill.training.progress import NO_STEP_LIMIT
from selfdistill.training.run import load_student


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training run."""

    arm: Arm
    rate: float
    seed: int
    swept: bool
    """True if its validation accuracy helps to choose the arm's learning rate."""
    number: int
    """Among all cells, from 1."""

    @property
    def place(self) -> str:
        """Path of its folder inside the study's folder."""
        return f"{self.arm.name}/lr-{self.rate:g}/seed-{self.seed}"

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"{self.arm.name}, lr {self.rate:g}, seed {self.seed}"


class Comparison:
    """A comparison: its arms, its data and its folder.

    Args:
        options: checked already.
        console: for progress and results.

    Raises:
        UserError: a setting, a row or the folder can't be used.
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
        self._num_cells = sum(len(rates) + len(self.seeds) - 1 for rates in self.rates.values())
        self._told: set[str] = set()  # arms whose learning rate was said to be chosen

    def run(self) -> CompareRecord:
        """Runs every cell that isn't done, writes compare.json and returns its record. Other processes may do the same
        at the same time; then it waits for their cells.

        All learning rates run with the first seed; the other seeds run with the rate chosen for each arm.

        Raises:
            UserError: an arm can't be trained, no row can be scored, or others work on the study in another way.
        """
        self.check()
        on_cpu = partial(self.runs.stay_on_cpu, self.arms[0], self.subject)
        executor = chosen_executor(self.options.execution, self.console, on_cpu)
        with Sharing(self.folder, self.console, executor=executor) as sharing:
            if sharing.goes_on:
                self.console.print(f"Going on with the study in {escape(str(self.folder.path))}.")
            base = sharing.do(self.runs.base(self.arms, [self.subject], partial(order, self, Comparison.score_base)))
            done = sharing.work_off(partial(self._jobs, base))
            cells = [done[cell.place] for cell in self._cells(done)]
            if len({cell.num_rows for cell in cells}) > 1:
                self.console.print(
                    "[yellow]Warning:[/yellow] a length limit dropped more rows of one arm than of another."
                )
            record = self.conclude(base, cells)
            run_folder.write_json(self.folder.path / run_folder.COMPARE, record)
            return record

    def check(self) -> None:
        """Prepares every arm once. Raises UserError if one can't be trained."""
        self.runs.check(self.arms, [self.subject], here=self.options.execution.executor == "process")

    def score_base(self, before: BaseRecord | None, bench: Bench) -> BaseRecord:
        """Scores the base model; see ``StudyRuns.score_base``."""
        return self.runs.score_base(self.arms, [self.subject], before, bench)

    def chosen(self, arm: Arm, cells: Sequence[CellRecord]) -> float:
        """The arm's learning rate: its only one, or the best on the validation rows."""
        tried = _validation_by_rate(arm, cells)
        return best_rate(tried) if tried else self.rates[arm.name][0]

    def conclude(self, base: BaseRecord, cells: Sequence[CellRecord]) -> CompareRecord:
        """The record of the comparison, as compare.json holds it."""
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
            base=checkpoint(base.measured, self.subject.name, "", Spent(step=0, tokens=0, seconds=0.0)),
            dataset=self.subject.name,
            metric=next(iter(self.subject.task.scorers)),
            seeds=self.seeds,
            budget=(self.options.budget, self.options.budget_amount or cells[0].checkpoints[-1].step),
        )

    def _say_choice(self, arm: Arm, rate: float, cells: Sequence[CellRecord]) -> None:
        tried = _validation_by_rate(arm, cells)
        if len(tried) < 2 or arm.name in self._told:
            return
        self._told.add(arm.name)
        accuracies = ", ".join(f"{value:g} {accuracy:.1%}" for value, accuracy in tried.items())
        equal = "all rates are equal, " if len(set(tried.values())) == 1 else ""
        self.console.print(f"{escape(arm.name)} on the validation rows: {accuracies}; {equal}lr {rate:g} is chosen")

    def _cells(self, done: Mapping[str, CellRecord]) -> list[Cell]:
        """The cells that are known: all of the first seed, and of the other seeds those of every arm whose learning
        rate can be chosen.

        Args:
            done: records by the cell's place.
        """
        first, *others = self.seeds
        tried = [(arm, rate) for arm in self.arms for rate in self.rates[arm.name]]
        cells = [
            Cell(arm=arm, rate=rate, seed=first, swept=len(self.rates[arm.name]) > 1, number=number)
            for number, (arm, rate) in enumerate(tried, start=1)
        ]
        number = len(cells)
        for arm in self.arms:
            places = [cell.place for cell in cells if cell.arm is arm]
            records = [done[place] for place in places if place in done]
            if len(self.rates[arm.name]) in (1, len(records)):
                rate = self.chosen(arm, records)
                self._say_choice(arm, rate, records)
                cells += [
                    Cell(arm=arm, rate=rate, seed=seed, swept=False, number=at)
                    for at, seed in enumerate(others, start=number + 1)
                ]
            number += len(others)
        return cells

    def _jobs(self, base: BaseRecord, done: Mapping[str, CellRecord]) -> list[Job[CellRecord]]:
        cells = self._cells(done)
        firsts = {cell.arm.name: cell.number for cell in reversed(cells)}.values()  # of each arm: it says its settings
        return [
            Job(
                name=cell.place,
                title=f"cell {cell.number} of {self._num_cells}: {cell.title}",
                find=partial(self._find, cell),
                make=partial(self._train, cell, base),
                put=partial(put, self.folder, cell.place, run_folder.CELL),
                order=order(self, Comparison._train, cell, base, quiet=cell.number not in firsts),
            )
            for cell in cells
        ]

    def _find(self, cell: Cell) -> CellRecord | None:
        """The cell's record, if it was run before and lacks nothing."""
        before = self.folder.find(f"{cell.place}/{run_folder.CELL}", CellRecord)
        lacks_validation = cell.swept and before is not None and before.validation is None  # it was the arm's only rate
        return None if lacks_validation else before

    def _train(self, cell: Cell, base: BaseRecord, work: Bench) -> CellRecord:
        folder = work.folder / cell.place
        self.meter.prepare()
        prepared = self.runs.prepared(cell.arm, self.subject, self._settings(cell, base, folder))
        trainer = self.runs.trainer(cell.arm, prepared, load_student(prepared), work)
        checkpoints: list[Checkpoint] = []
        validation: float | None = None

        def evaluate(spent: Spent, last: bool) -> None:
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
        budget = BudgetCallback(trainer, options.budget, options.budget_amount, options.checkpoints, evaluate)
        trainer.add_callback(budget)
        trainer.train()
        if not checkpoints:
            raise UserError(f"{cell.title}: no step was made within the budget. Raise --budget_amount.")
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

    def _settings(self, cell: Cell, base: BaseRecord, folder: Path) -> dict[str, Any]:
        """The settings of a cell's run that its arm leaves open."""
        settings: dict[str, Any] = {"output_dir": str(folder), "seed": cell.seed, "learning_rate": cell.rate}
        if self.options.budget != "steps":
            settings["max_steps"] = NO_STEP_LIMIT
        elif self.options.budget_amount is not None:
            settings["max_steps"] = int(self.options.budget_amount)
        return settings | self.runs.template_settings(cell.arm, self.subject, base)


def checkpoint(
    measured: Measurements, task: str, arm: str, spent: Spent, learning_rate: float = 0.0, seed: int = 0
) -> Checkpoint:
    """The record of a model's measurements at one point of a run.

    Args:
        measured: the model's measurements.
        task: name of the trained task.
        arm: name of the arm; empty for the base model.
        spent: what the run had used up.
        learning_rate: the run's.
        seed: the run's.
    """
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
    """The record of a comparison, computed from its cells and the evaluations in their folders.

    Args:
        folder: the study's folder.
        cells: all cells.
        arms: with the learning rate chosen for each.
        base: the base model at step 0.
        dataset: name of the trained task.
        metric: name of its headline scorer.
        seeds: of the comparison.
        budget: its unit and amount.

    Raises:
        UserError: a cell's evaluation can't be read.
    """
    rates = {arm.name: arm.learning_rate for arm in arms}
    checkpoints = [
        replace(point, chosen=cell.learning_rate == rates[cell.arm], validation=cell.validation, run=cell.run)
        for cell in cells
        for point in cell.checkpoints
    ]
    scores: dict[str, dict[int, list[float | None]]] = {arm.name: {} for arm in arms}
    for cell in cells:
        if cell.learning_rate == rates[cell.arm]:
            last = folder / cell.run / run_folder.EVAL / run_folder.results_file(dataset)
            scores[cell.arm][cell.seed] = run_folder.read_record(last, EvalRecord).per_sample_scores
    record = CompareRecord(
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
    runs = record.runs()
    all_fronts = fronts(base, runs)
    answer = verdict(all_fronts, {arm.name: arm.distils for arm in arms}, len(seeds))
    return replace(record, equal_skill=equal_skill(base, runs), fronts=all_fronts, verdict=answer)


def _validation_by_rate(arm: Arm, cells: Sequence[CellRecord]) -> dict[float, float]:
    """Validation accuracy of each learning rate that was tried for an arm."""
    return {
        cell.learning_rate: cell.validation for cell in cells if cell.arm == arm.name and cell.validation is not None
    }


def _subject(options: CompareOptions, console: Console) -> Subject:
    source, data, measures = options.source, options.recipe.data, options.measures
    if source.dataset_path is None:
        return named_subject(source.dataset_name, data, measures, console)
    seed = options.seed_list()[0]
    return own_subject(source.dataset_path, options.eval_path, data, measures, console, seed=seed)
