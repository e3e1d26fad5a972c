"""The folder of a study, in which the same command resumes the study."""

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from selfdistill import run_folder
from selfdistill.checkpoints import commit
from selfdistill.checkpoints.leases import LostLeaseError
from selfdistill.checkpoints.manifest import Manifest, digests
from selfdistill.errors import DamagedFilesError, UserError, quoted
from selfdistill.records.studies import StudyRecord
from selfdistill.settings import flat
from selfdistill.settings.chat_template import read_chat_template
from selfdistill.settings.sources import named_paths
from selfdistill.settings.study import ContinualOptions, StudyOptions
from selfdistill.studies.arms import Arm
from selfdistill.studies.subjects import Subject
from selfdistill.training.run import empty_folder

NO_EFFECT = (
    *("output_dir", "overwrite", "config", "data_dir", "eval_batch_size", "skip_memory_check", "judge_price"),
    *("executor", "ray_address", "ray_cpus", "report_to", "teacher_home"),
    *("vllm_url", "vllm_weight_transfer", "vllm_memory_share"),
)
"""Options that may differ when a study is resumed, since they do not change its results."""
GROW = ("methods", "arm", "seeds", "learning_rates")
"""Options that may differ when a study is resumed, since each of their values has its own runs."""
PLACES = ("dataset_path", "eval_path")
"""Options that may differ when a study is resumed, since the rows themselves are compared: a study may be moved with
its rows."""

_Record = TypeVar("_Record")


class StudyFolder:
    """The folder of a study; nothing is written or deleted before ``open``.

    Args:
        command: compare or continual.
        options: options of the study.
        subjects: its tasks. With other rows or another scorer it is a different study.
        arms: the arms compared. An arm may be new to the folder, but must not change under the same name.

    Raises:
        UserError: the folder holds something else or a study with other settings, or must not be overwritten.
    """

    def __init__(self, command: str, options: StudyOptions, subjects: Sequence[Subject], arms: Sequence[Arm]) -> None:
        self.path = Path(str(options.place.output_dir))
        self.overwrites = options.place.overwrite
        self._command = command
        self._versions = run_folder.versions()
        self._arms: dict[str, dict[str, Any]] = {arm.name: dict(arm.settings) for arm in arms}
        self._settings = _compared(options)
        self._defaults = _compared(type(options)())
        self.data = {name: value for subject in subjects for name, value in subject.identity().items()}
        """What identifies rows, scorers and chat template, by description."""
        self.wants = {name: self._settings.get(name) for name in GROW}
        """What all processes that work on the study at the same time must have been given alike."""
        if file := options.recipe.model.chat_template:
            self.data["chat template"] = hashlib.sha256(read_chat_template(file).encode()).hexdigest()
        if self.path.is_file():
            raise UserError(f"--output_dir {self.path} is a file. Name a folder.")
        if self.overwrites:
            run_folder.check_replaceable(self.path, _inputs(options, arms))
        elif (self.path / run_folder.STUDY).is_file():
            self._resume(run_folder.read_record(self.path / run_folder.STUDY, StudyRecord))
        elif run_folder.in_use(self.path):
            raise UserError(
                f"--output_dir {self.path} is not empty and holds no {command}. Name another folder, or replace "
                "it with --overwrite."
            )

    def _resume(self, before: StudyRecord) -> None:
        """Checks that the folder holds this study, and takes over its arms and the versions it was begun with."""
        old_settings = self._defaults | before.settings  # those that came later had the value that changes nothing
        settings = {name: value for name, value in old_settings.items() if name not in NO_EFFECT}
        pairs = {name: (old, self._settings.get(name)) for name, old in settings.items() if name not in GROW + PLACES}
        pairs |= {name: (before.data.get(name), self.data.get(name)) for name in before.data | self.data}
        pairs |= {f"arm {name}": (before.arms.get(name, own), own) for name, own in self._arms.items()}
        pairs["command"] = (before.command, self._command)
        for name, (old, new) in pairs.items():
            if old != new:
                raise UserError(
                    f"{self.path} holds a study with another {name}: {quoted(old, 40)}, now {quoted(new, 40)}. Start "
                    "the same command, name another --output_dir, or give --overwrite."
                )
        self._arms = before.arms | self._arms
        self._versions = before.versions

    def open(self) -> bool:
        """Creates the folder, emptying it with ``--overwrite``, and writes study.json.

        Returns:
            True if it resumes a study.

        Raises:
            UserError: something in the folder can't be deleted, or it holds a study with other settings by now.
        """
        if self.overwrites:
            empty_folder(self.path)
        elif (self.path / run_folder.STUDY).is_file():
            self._resume(run_folder.read_record(self.path / run_folder.STUDY, StudyRecord))
        record = StudyRecord(
            command=self._command,
            settings=self._settings,
            data=self.data,
            arms=self._arms,
            versions=self._versions,
        )
        resumes = (self.path / run_folder.STUDY).is_file()
        run_folder.write_json(self.path / run_folder.STUDY, record)
        return resumes

    def keep(self, place: str, record: Any, root: Path | None = None) -> None:
        """Writes a record, then hashes of it and of its evaluation.

        Args:
            place: the record's file, from the study's folder.
            record: the record.
            root: another folder to write to, in which the evaluation lies under the same name as later in the study's.
        """
        root = root or self.path
        run_folder.write_json(root / place, record)
        seal = Manifest(files=digests(root, [place, *_evaluation(root, place)]))
        run_folder.write_json(_seal(root, place), seal)

    def put(self, made: Path, place: str) -> None:
        """Moves a whole folder to ``place``, where nothing is, or what was never finished.

        Raises:
            LostLeaseError: in this moment another process has moved its own there.
        """
        target = self.path / place
        run_folder.make_folder(target.parent)
        if target.is_dir():
            commit.place(made, target)
            return
        try:
            os.rename(made, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise LostLeaseError(place) from error
            raise
        run_folder.sync(target.parent)

    def find(self, place: str, kind: type[_Record]) -> _Record | None:
        """The record in the file ``place`` of the folder; None if it was not kept, or not to the end.

        Raises:
            DamagedFilesError: it, or the evaluation beside it, is not what was kept there.
        """
        path = self.path / place
        if not path.is_file() or not _seal(self.path, place).is_file():  # a crash may come between the two
            return None
        try:
            kept = run_folder.read_record(_seal(self.path, place), Manifest).files
            there = digests(self.path, [place, *_evaluation(self.path, place)])
            wrong = sorted(name for name in kept | there if kept.get(name) != there.get(name))
            record = None if wrong else run_folder.read_record(path, kind)
        except (UserError, OSError):
            wrong, record = [_seal(self.path, place).name], None
        if record is None:
            again = path if place == run_folder.BASE else path.parent
            raise DamagedFilesError(
                f"{path}: {wrong[0]} is not as it was written. Delete {again}, and the same command makes it again."
            )
        return record


def _seal(root: Path, place: str) -> Path:
    return (root / place).with_suffix(run_folder.SEAL)


def _evaluation(root: Path, place: str) -> list[str]:
    """Paths, from ``root``, of the evaluation that belongs to a record."""
    name = run_folder.EVAL_BEFORE if place == run_folder.BASE else run_folder.EVAL
    folder = (root / place).parent / name
    return sorted(path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file())


def _inputs(options: StudyOptions, arms: Sequence[Arm]) -> list[str | None]:
    """Files and folders that the study reads, including its scorer and those that only one arm reads."""
    paths: list[str | None] = [options.measures.judge.scorer]
    for source in (options, *(arm.options for arm in arms)):
        paths += flat.input_paths(source)
    stages = options.stage_list() if isinstance(options, ContinualOptions) else ()
    return [*paths, *(path for stage in stages for part in stage.split(":") for path in (part, *named_paths(part)))]


def _compared(options: StudyOptions) -> dict[str, Any]:
    """The options by which a study is compared when it is resumed."""
    return _as_json({name: value for name, value in flat.flatten(options).items() if name not in NO_EFFECT})


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they will be read back from JSON, with lists for tuples."""
    return json.loads(json.dumps(dict(settings), default=str))
