"""The data of ``learn``: rows and items of the new skill, and the items and scorers of the skills already held."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.data.own import Reading, own_evaluation
from selfdistill.errors import UserError
from selfdistill.ledger import folder as ledger
from selfdistill.ledger.folder import Ledger
from selfdistill.ledger.forgetting_test import smallest_loss_refused
from selfdistill.records.ledger import Skill
from selfdistill.settings.ledger import LearnOptions
from selfdistill.tasks import TASKS, get_task, resolve_data_dir
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.scorers import scorer_from
from selfdistill.tasks.task import Task
from selfdistill.types import Example, Scorer

EVAL_SHARE = 0.1
"""Default share of a user's own rows that is held out for evaluation."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """The data of a skill to be learned."""

    task: Task
    """Has the skill's name, and the skill's scorer as its only one."""
    train: Sequence[Example]
    items: Sequence[Example]
    """Evaluation rows, which are not trained on."""


@dataclass(frozen=True, slots=True)
class HeldSkill:
    """A skill with what is needed to score it."""

    skill: Skill
    since: int
    """Version whose answers it is compared with: the one that learned it; for a new skill the one it starts from."""
    task: Task
    """Has the skill's name, and the skill's scorer as its only one."""
    items: Sequence[Example]
    """Evaluation rows."""


def load_lesson(options: LearnOptions, say: Callable[[str], None]) -> Lesson:
    """Training rows and evaluation items of the new skill. ``say`` is told of rows that were left out.

    Raises:
        UserError: the data or the scorer can't be used, or there are so few items that the gate could see no loss.
    """
    new, source, data = options.new_skill, options.source, options.recipe.data
    scorers = None if new.scorer is None else dict([scorer_from(new.scorer)])
    if source.dataset_path is not None:
        task = _own_task(options, source.dataset_path, scorers, say)
        train, items = task.load_train(None), task.load_eval(None)
    else:
        task = get_task(source.dataset_name)
        data_dir = resolve_data_dir(data.data_dir)
        train, items = task.load_train(data_dir), task.load_eval(data_dir)
        headline = next(iter(task.scorers))
        if scorers is None and headline in task.judged:
            raise UserError(
                f"--dataset_name {task.name} is scored by a judge, and a ledger scores without one. Name a --scorer."
            )
        task = replace(task, name=options.skill_name, scorers=scorers or {headline: task.scorers[headline]})
    train, items = train[: data.limit], items[: new.eval_limit]
    if smallest_loss_refused(len(items), options.gate.max_forgetting, options.gate.confidence) is None:
        raise UserError(
            f"{len(items)} evaluation rows of {options.skill_name} are too few for the gate to see even a total "
            "loss. Give more: --eval_path, a larger --eval_share or --eval_limit."
        )
    return Lesson(task, train, items)


def _own_task(options: LearnOptions, path: str, scorers: dict[str, Scorer] | None, say: Callable[[str], None]) -> Task:
    """The user's own rows as a task; its evaluation rows are those of ``--eval_path``, of ``--eval_share``, of a
    folder's own evaluation split, or else EVAL_SHARE of the rows."""
    rows, data, eval_path = options.recipe.data.rows, options.recipe.data, options.new_skill.eval_path
    if eval_path is None and rows.eval_share is None:
        eval_path = own_evaluation(path)
        rows = replace(rows, eval_share=EVAL_SHARE) if eval_path is None else rows
    reading = Reading(
        rows=rows,
        seed=options.seed,
        train_limit=data.limit,
        eval_limit=options.new_skill.eval_limit,
        say=say,
    )
    return custom_task(path, eval_path, scorers=scorers, name=options.skill_name, reading=reading)


def check_new(book: Ledger, lesson: Lesson) -> None:
    """Raises UserError if the ledger already holds a skill of the lesson's name, in any case of its letters."""
    for version in book.lineage():
        skill = version.skill
        if skill.name.casefold() == lesson.task.name.casefold():
            same = skill.rows_sha256 == ledger.fingerprint(lesson.train)
            raise UserError(
                f"Skill {skill.name} exists: version {version.number} learned it from "
                f"{'the same' if same else 'other'} rows. Give another name with --skill, or roll back first."
            )


def record(options: LearnOptions, lesson: Lesson, max_new_tokens: int, chat_template_kwargs: dict[str, Any]) -> Skill:
    """The new skill as the ledger records it.

    Args:
        options: of ``learn``.
        lesson: the skill's data.
        max_new_tokens: default completion limit for a user's own rows, in tokens; a named task has its own limit.
        chat_template_kwargs: passed to the chat template in every evaluation of the skill.
    """
    task, own = lesson.task, options.source.dataset_path is not None
    longest = max_new_tokens if own else task.max_new_tokens
    scorer, file = options.new_skill.scorer, scorer_file(options.new_skill.scorer)
    if scorer and file:
        scorer = f"{file.name}:{scorer.rpartition(':')[2]}"
    return Skill(
        name=task.name,
        source=options.source.dataset_path or options.source.dataset_name,
        rows_sha256=ledger.fingerprint(lesson.train),
        num_rows=len(lesson.train),
        items_sha256=ledger.fingerprint(lesson.items),
        num_items=len(lesson.items),
        metric=next(iter(task.scorers)),
        task=None if own else options.source.dataset_name,
        scorer=scorer or ("exact_match" if own else None),
        max_new_tokens=options.new_skill.max_new_tokens or longest,
        scorer_sha256=hashlib.sha256(file.read_bytes()).hexdigest() if file else None,
        chat_template_kwargs=chat_template_kwargs,
    )


def keep(folder: Path, options: LearnOptions, lesson: Lesson) -> None:
    """Copies the items, and the scorer's file if it is the user's own, into a version's folder."""
    ledger.write_items(folder, lesson.items)
    if file := scorer_file(options.new_skill.scorer):
        shutil.copyfile(file, folder / run_folder.SKILL / file.name)


def scorer_file(spec: str | None) -> Path | None:
    """The file of a scorer given as ``path.py:function``; None for any other scorer."""
    file = (spec or "").rpartition(":")[0]
    return Path(file).expanduser() if file.endswith(".py") and not file.startswith("regex:") else None


def held_skills(book: Ledger) -> list[HeldSkill]:
    """The skills held, oldest first. Raises UserError if items or a scorer are gone, or items were changed."""
    return [ready(version.skill, version.number, book.place(version.number)) for version in book.lineage()]


def ready(skill: Skill, since: int, folder: Path) -> HeldSkill:
    """A skill with its items and scorer, from the folder of the version that learned it.

    Args:
        skill: the skill's record.
        since: version whose answers the skill is compared with; see ``HeldSkill``.
        folder: folder of the version that learned the skill.

    Raises:
        UserError: the items or the scorer are gone, or the items were changed.
    """
    items = ledger.read_items(folder, skill)
    task = custom_task(None, None, scorers={skill.metric: _scorer(skill, folder)}, name=skill.name)
    task = replace(task, revision=skill.items_sha256[:12], max_new_tokens=skill.max_new_tokens)
    return HeldSkill(skill, since, task, items)


def _check_scorer(skill: Skill, kept: Path, named: Path) -> None:
    """Raises UserError unless ``kept`` is the very file that was kept when the skill was learned: it is code to run."""
    if named.name != str(named) or kept.is_symlink():
        raise UserError(f"{kept.parent}: the scorer of {skill.name} lies elsewhere. Only a file in this folder is run.")
    if not kept.is_file():
        raise UserError(f"{kept} is gone. Put back the scorer of {skill.name}.")
    if hashlib.sha256(kept.read_bytes()).hexdigest() != skill.scorer_sha256:
        raise UserError(f"{kept} was changed since {skill.name} was learned, and is not run. Put back a copy of it.")


def _scorer(skill: Skill, folder: Path) -> Scorer:
    if skill.scorer is not None:
        file = scorer_file(skill.scorer)
        if file is None:
            return scorer_from(skill.scorer)[1]
        _check_scorer(skill, folder / run_folder.SKILL / file.name, file)
        return scorer_from(str(folder / run_folder.SKILL / skill.scorer))[1]
    task = TASKS.get(skill.task or "")
    if task is None or skill.metric not in task.scorers:
        raise UserError(
            f"Skill {skill.name} is scored by {skill.metric} of {skill.task}, which this version of selfdistill lacks. "
            "Use the version that learned the skill."
        )
    return task.scorers[skill.metric]
