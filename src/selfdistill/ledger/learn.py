"""Teaches a ledger's model one more skill: train, score every skill, promote or refuse the result."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.evaluate.results import write_evaluation
from selfdistill.evaluate.scorer_choice import TaskRows
from selfdistill.evaluate.task_rows import score_rows
from selfdistill.ledger import folder as ledger
from selfdistill.ledger.folder import Ledger
from selfdistill.ledger.forgetting_test import forgetting_exceeds, smallest_loss_refused
from selfdistill.ledger.lesson import HeldSkill, Lesson, check_new, held_skills, keep, load_lesson, ready, record
from selfdistill.ledger.sealed import check_held, seal
from selfdistill.models import loading
from selfdistill.records.evaluations import SampleRecord
from selfdistill.records.ledger import GateVerdict, Skill, Version
from selfdistill.settings import flat
from selfdistill.settings.evaluate import DecodingOptions
from selfdistill.settings.groups import DEFAULT_MODEL
from selfdistill.settings.ledger import GateOptions, LearnOptions
from selfdistill.settings.train import RunOptions, TrainOptions
from selfdistill.stats.scores import mean
from selfdistill.tasks.overlap import overlap_warning
from selfdistill.training.prepare import ModelFiles, Prepared, prepare, require_memory
from selfdistill.training.run import load_student, make_trainer, rendered_rows, save_whole, settled, whole_model
from selfdistill.training.settings import completion_budget, without_idle_settings
from selfdistill.types import EvalResult, engine_in_memory

METHOD = ("method", "learning_rate", "num_train_epochs", "max_steps", "template", "anchor_share", "seed")
"""Training settings that ledger.json records of each version; run_config.json has all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The outcome of a lesson."""

    book: Ledger
    """The ledger afterwards."""
    version: Version
    """The new version, promoted or refused."""
    after: dict[str, EvalResult]
    """The new version's answers, by skill."""

    @property
    def place(self) -> Path:
        """The new version's folder."""
        return self.book.place(self.version.number)


def learn(options: LearnOptions, console: Console) -> Learned:
    """Trains the ledger's current model on the new rows, scores all skills, and promotes or refuses the result.

    Args:
        options: checked already.
        console: for progress and warnings.

    Raises:
        UserError: the data, the scorer, a setting or the ledger can't be used; the ledger is then unchanged.
        DamagedFilesError: a version whose skill is held is not as it was committed.
    """
    lesson = load_lesson(options, lambda text: console.print(escape(text)))
    if warning := overlap_warning(lesson.task.name, lesson.train, lesson.items):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    folder = Path(str(options.ledger))
    with ledger.locked(folder):
        book = ledger.begin(folder, options.base_model, DEFAULT_MODEL)
        check_held(book)
        check_new(book, lesson)
        return _Learning(options, lesson, book, held_skills(book), console).learn()


class _Learning:
    """A lesson in progress. The ledger must be locked until it ends."""

    def __init__(
        self, options: LearnOptions, lesson: Lesson, book: Ledger, held: list[HeldSkill], console: Console
    ) -> None:
        self.options, self.lesson, self.book, self.held, self.console = options, lesson, book, held, console

    def learn(self) -> Learned:
        """Trains, scores and commits the new version. Raises UserError as ``learn`` does."""
        loading.quiet_libraries()
        start = self.book.model_name(self.book.current)
        files = ModelFiles(start, self.options.recipe)
        if self.held:
            _check_same_template(files, self.options)
        settings, _ = without_idle_settings(self._training(start))
        rows = rendered_rows(self.lesson.train, files, self.console)
        prepared = prepare(settings, self.lesson.task, rows, files)
        require_memory(prepared)
        staged = ledger.stage(self.book)
        prepared = prepared.in_folder(staged)
        keep(staged, self.options, self.lesson)
        new = ready(self._record(prepared), self.book.current, staged)
        before = {old.skill.name: stored_scores(self.book, old, staged) for old in self.held}
        model = load_student(prepared)
        items = f"{len(new.items)} items of {new.skill.name}"
        self.console.print(f"Scoring {escape(start)} on the {escape(items)}, before training ...")
        before[new.skill.name] = self._score_start(new, model, files.tokenizer, staged)

        trainer = make_trainer(settled(prepared, model, self.console), model, self.console)
        trainer.train()
        model = whole_model(trainer)  # a version must not depend on another one's weights
        skills = [*self.held, new]
        self.console.print(f"Scoring the candidate on {len(skills)} skill{'s' if self.held else ''} ...")
        after = {one.skill.name: self._score(one, model, files.tokenizer, staged / run_folder.EVAL) for one in skills}
        save_whole(model, prepared, staged)
        gate = self.options.gate
        verdicts = tuple(verdict_on(one, before[one.skill.name], after[one.skill.name], gate) for one in skills)
        version = Version(
            number=int(staged.name),
            parent=self.book.current,
            created=datetime.now().astimezone().isoformat(timespec="seconds"),
            refused=any(verdict.refused for verdict in verdicts),
            skill=new.skill,
            method={name: getattr(trainer.args, name) for name in METHOD},
            max_forgetting=gate.max_forgetting,
            confidence=gate.confidence,
            verdicts=verdicts,
        )
        run_folder.write_json(staged / run_folder.GATE, version)
        version = replace(version, manifest=seal(staged))
        return Learned(book=ledger.commit(self.book, staged, version), version=version, after=after)

    def _training(self, start: str) -> TrainOptions:
        """The options of the training run."""
        options = self.options
        settings = TrainOptions(
            method=options.method, seed=options.seed, source=options.source, run=RunOptions(), recipe=options.recipe
        )
        return flat.changed(settings, {"model_name": start})

    def _record(self, prepared: Prepared) -> Skill:
        """The new skill as the ledger records it. For a user's own rows the default completion limit is that of
        training."""
        lengths = prepared.rows.demonstration_lengths(prepared.config)
        longest = completion_budget(self.lesson.task, lengths, samples=False)
        return record(self.options, self.lesson, longest, prepared.config.chat_variables("student"))

    def _score(
        self, one: HeldSkill, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
    ) -> EvalResult:
        """Scores the model's greedy answers to a skill's items and writes them into an evaluation folder."""
        decoding = DecodingOptions(
            batch_size=self.options.new_skill.eval_batch_size,
            rollout_engine=engine_in_memory(self.options.recipe.sampling.rollout_engine),
            chat_template_kwargs=one.skill.chat_template_kwargs,
        )
        result = score_rows(model, tokenizer, TaskRows(one.task, one.items), decoding, self.console)
        write_evaluation(folder, result)
        return result

    def _score_start(
        self, new: HeldSkill, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, staged: Path
    ) -> dict[str, float | None]:
        """Scores of the new skill's items before training, by id; None for an item that can't be scored.

        Raises:
            UserError: so few items can be scored that the gate could not see even a total loss.
        """
        result = self._score(new, model, tokenizer, staged / run_folder.EVAL_BEFORE)
        scores = {sample.example.id: sample.scores[result.metric] for sample in result.samples}
        num_scored, gate = len(result.scores), self.options.gate
        if smallest_loss_refused(num_scored, gate.max_forgetting, gate.confidence) is None:
            raise UserError(
                f"{result.metric} could score {num_scored} of the {len(scores)} evaluation rows of {new.skill.name}, "
                "too few for the gate. Give each row a reference answer, or name another --scorer."
            )
        return scores


def stored_scores(book: Ledger, old: HeldSkill, staged: Path) -> dict[str, float | None]:
    """Scores, by item id, of the answers of the version that learned a skill; copies those answers for the report.

    The recorded answers are scored again, so that old and new answers are scored by the same code.

    Args:
        book: the ledger.
        old: the skill.
        staged: staging folder of the new version.

    Returns:
        A score in [0, 1] for each item; None for an item that can't be scored.

    Raises:
        UserError: the answers are gone.
    """
    source, target = book.place(old.since) / run_folder.EVAL, staged / run_folder.EVAL_BEFORE
    name, scorer = old.skill.name, old.task.scorers[old.skill.metric]
    target.mkdir(exist_ok=True)
    try:
        rows = {row.id: row for row in run_folder.read_records(source / run_folder.samples_file(name), SampleRecord)}
        files = {
            file: (source / file).read_bytes()
            for file in (run_folder.results_file(name), run_folder.samples_file(name))
        }
        completions = {item.id: rows[item.id].completion for item in old.items}
    except (OSError, UserError, KeyError) as error:
        raise UserError(
            f"{source} lacks the answers for skill {name} from when it was learned. Put back a copy of them."
        ) from error
    for file, content in files.items():
        (target / file).write_bytes(content)
    return {item.id: scorer(completions[item.id], item) for item in old.items}


def _check_same_template(files: ModelFiles, options: LearnOptions) -> None:
    """Raises UserError if ``--chat_template`` is another than the current version's, with which its skills were
    scored."""
    file = options.recipe.model.chat_template
    if file is not None and loading.load_tokenizer(files.name).chat_template != files.tokenizer.chat_template:
        raise UserError(
            f"--chat_template {file} is another than the one with which the skills in {options.ledger} were scored. "
            "Leave it out, or begin another --ledger."
        )


def verdict_on(one: HeldSkill, before: dict[str, float | None], after: EvalResult, gate: GateOptions) -> GateVerdict:
    """The gate's verdict on one skill.

    An item that could be scored before but can't be scored now counts as lost; one that could not be scored before is
    left out.

    Args:
        one: the skill.
        before: earlier scores by item id; None for an item that could not be scored.
        after: the candidate's answers.
        gate: allowed loss, and confidence.
    """
    then: list[float] = []
    now: list[float] = []
    for sample in after.samples:
        old = before[sample.example.id]
        if old is not None:
            then.append(old)
            now.append(sample.scores[after.metric] or 0.0)
    test = forgetting_exceeds(then, now, gate.max_forgetting, gate.confidence)
    return GateVerdict(
        skill=one.skill.name,
        compared_with=one.since,
        num_items=test.num_items,
        then=mean(then),
        now=mean(now),
        change=test.change,
        bound=test.bound,
        smallest_loss=smallest_loss_refused(test.num_items, gate.max_forgetting, gate.confidence),
        refused=test.refused,
    )
