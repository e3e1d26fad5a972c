"""``selfdistill learn``: one more skill, promoted only if no earlier one was lost."""

import shutil
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.commands import train as train_command
from selfdistill.commands.learn_show import show_lost, show_verdicts
from selfdistill.ledger import folder as ledger
from selfdistill.ledger.folder import Ledger, Verdict, Version
from selfdistill.ledger.forgetting_test import forgetting_exceeds, smallest_loss_refused
from selfdistill.ledger.lesson import HeldSkill, Lesson, check_new, held_skills, keep, load_lesson, ready, record
from selfdistill.settings.ledger import LearnOptions
from selfdistill.stats.scores import mean
from selfdistill.tasks.overlap import overlap_warning
from selfdistill.types import EvalResult, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_BASE = "smollm2-135m"
REFUSED_CODE = 3
"""Exit code where the gate refused the new weights."""
BEFORE, AFTER = "eval-before", "eval"
METHOD = ("method", "learning_rate", "num_train_epochs", "max_steps", "template", "anchor_share", "seed")
"""Settings that the ledger notes of a training; run_config.json has all."""


def run(options: LearnOptions, console: Console) -> int:
    """Trains the ledger's current model on the new rows, scores all skills, and promotes or refuses the result.

    Returns:
        0 where it was promoted, 3 where it was refused.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()
    lesson = load_lesson(options)
    if warning := overlap_warning(lesson.task, None, train=lesson.train, evaluation=lesson.items):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    folder = Path(options.ledger or "").expanduser()
    with ledger.locked(folder):
        book = ledger.begin(folder, options.model_name, DEFAULT_BASE)
        check_new(book, lesson)
        held = held_skills(book)
        return _learn(options, lesson, book, held, console)


def _learn(options: LearnOptions, lesson: Lesson, book: Ledger, held: list[HeldSkill], console: Console) -> int:
    from selfdistill.models import loading  # loads torch

    loading.quiet_libraries()
    start = book.model_name(book.current)
    tokenizer = loading.load_tokenizer(start)
    loading.require_chat_template(tokenizer, start)
    settings = replace(options, model_name=start)
    train_command.check_before_loading(settings, lesson.task, lesson.train, tokenizer)
    staged = ledger.stage(book)
    keep(staged, options, lesson)
    new = ready(record(options, lesson, tokenizer), book.current, staged)
    before = {old.skill.name: _stored_scores(book, old, staged) for old in held}
    model = loading.load_model(start, dtype=options.dtype)
    console.print(f"Scoring {escape(start)} on the {len(new.items)} items of {new.skill.name}, before training ...")
    before[new.skill.name] = _score_start(new, model, tokenizer, options, staged, console)

    settings = replace(settings, output_dir=str(staged))
    trainer = train_command.make_trainer(settings, lesson.task, lesson.train, model, tokenizer, console)
    trainer.train()
    trained: Any = trainer.model
    model = trained.merge_and_unload() if options.lora_r is not None else trained  # a version stands by itself
    console.print(f"Scoring the candidate on {len(held) + 1} skill{'s' if held else ''} ...")
    after = {one.skill.name: _score(one, model, tokenizer, options, staged / AFTER, console) for one in [*held, new]}
    model.save_pretrained(staged)
    tokenizer.save_pretrained(staged)

    verdicts = tuple(_verdict(one, before[one.skill.name], after[one.skill.name], options) for one in [*held, new])
    version = Version(
        number=int(staged.name),
        parent=book.current,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        refused=any(verdict.refused for verdict in verdicts),
        skill=new.skill,
        method={name: getattr(trainer.args, name) for name in METHOD},
        max_forgetting=options.max_forgetting,
        confidence=options.confidence,
        verdicts=verdicts,
    )
    run_folder.write_json(staged / run_folder.GATE, asdict(version))
    book = ledger.commit(book, staged, version)
    return _conclude(book, version, after, console)


def _score(
    one: HeldSkill,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    options: LearnOptions,
    folder: Path,
    console: Console,
) -> EvalResult:
    """The model's answers to a skill's items, greedy, written into ``folder`` as in a run folder."""
    from selfdistill.commands.eval import evaluate_model, write_into_run
    from selfdistill.settings.commands import EvalOptions

    decoding = EvalOptions(batch_size=options.eval_batch_size)
    result = evaluate_model(model, tokenizer, one.task, one.items, decoding, console)
    write_into_run(result, folder)
    return result


def _score_start(
    new: HeldSkill,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    options: LearnOptions,
    staged: Path,
    console: Console,
) -> dict[str, float | None]:
    """Scores of the new skill's items before training, by id. Raises UserError where too few can be scored."""
    result = _score(new, model, tokenizer, options, staged / BEFORE, console)
    scores = {sample.example.id: sample.scores[result.metric] for sample in result.samples}
    num_scored = sum(score is not None for score in scores.values())
    if smallest_loss_refused(num_scored, options.max_forgetting, options.confidence) is None:
        raise UserError(
            f"{result.metric} could score {num_scored} of the {len(scores)} evaluation rows of {new.skill.name}, too "
            "few for the gate. Give each a reference answer, or another --scorer."
        )
    return scores


def _stored_scores(book: Ledger, old: HeldSkill, staged: Path) -> dict[str, float | None]:
    """Scores that the version that learned the skill gave its items, by id; its answers are copied for the report.

    The answers are scored again, so that then and now are judged by the same code. Raises UserError where they are
    gone.
    """
    source = book.place(old.since) / AFTER
    name, scorer = old.skill.name, old.task.scorers[old.skill.metric]
    (staged / BEFORE).mkdir(exist_ok=True)
    try:
        rows = {row["id"]: row for row in run_folder.read_jsonl(source / f"{name}.samples.jsonl")}
        for ending in (".json", ".samples.jsonl"):
            shutil.copyfile(source / f"{name}{ending}", staged / BEFORE / f"{name}{ending}")
        return {item.id: scorer(rows[item.id]["completion"], item) for item in old.items}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{source} lacks the answers for skill {name} from when it was learned. Put back a copy of them."
        ) from error


def _verdict(one: HeldSkill, before: dict[str, float | None], after: EvalResult, options: LearnOptions) -> Verdict:
    """The gate's test. An item that could be scored then but not now counts as lost."""
    then: list[float] = []
    now: list[float] = []
    for sample in after.samples:
        old = before[sample.example.id]
        if old is not None:
            then.append(old)
            now.append(sample.scores[after.metric] or 0.0)
    test = forgetting_exceeds(then, now, options.max_forgetting, options.confidence)
    return Verdict(
        skill=one.skill.name,
        compared_with=one.since,
        num_items=test.num_items,
        then=mean(then),
        now=mean(now),
        change=test.change,
        bound=test.bound,
        smallest_loss=smallest_loss_refused(test.num_items, options.max_forgetting, options.confidence),
        refused=test.refused,
    )


def _conclude(book: Ledger, version: Version, after: dict[str, EvalResult], console: Console) -> int:
    """Says what came of it, writes the report, and returns the exit code."""
    from selfdistill.report import collect, render  # loads altair

    place = book.place(version.number)
    show_verdicts(version, console)
    for verdict in version.verdicts:
        if verdict.refused:
            show_lost(verdict, after[verdict.skill], place / BEFORE, console)
    page = render.write(collect.collect(place), place)
    if version.refused:
        lost = ", ".join(verdict.skill for verdict in version.verdicts if verdict.refused)
        kept = f"version {book.current}" if book.current else "the base model"
        console.print(f"[bold red]REFUSED[/bold red]: {escape(lost)} would be lost; {kept} stays current.")
        console.print(f"The candidate is in {escape(str(place))}. Open {escape(str(page))}")
        return REFUSED_CODE
    console.print(f"[bold green]PROMOTED[/bold green]: version {version.number} is current, in {escape(str(place))}.")
    console.print(f"Open {escape(str(page))}")
    return 0
