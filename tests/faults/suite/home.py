"""A tiny model, rows, and what uninterrupted runs of several kinds end with."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from selfdistill import run_folder
from selfdistill.checkpoints.find import checkpoints_in, newest_valid, number_of
from selfdistill.checkpoints.manifest import DamagedError, verify
from tests.faults.suite.fork import Number, run
from tests.faults.suite.operations import Operation, Watch
from tests.support.tiny import byte_tokenizer, random_model
from tests.support.tiny_home import train

OUT = "out"
STEPS = 4
EVERY_STEP = ("--max_steps=4", "--save_steps=1", "--set=save_total_limit=2", "--learning_rate=1e-2")
VARIANTS: dict[str, tuple[str, ...]] = {
    "ema": (),
    "frozen": ("--teacher=frozen",),
    "live": ("--teacher=live",),
    "lora": ("--lora_r=2",),
    "anchors": ("--anchor_share=0.5", "--anchor_data=anchors.jsonl"),
    "accumulation": ("--per_device_train_batch_size=2", "--gradient_accumulation_steps=3"),
    "sft": ("--method=sft",),
    "logging": ("--set=logging_steps=5", "--max_steps=6"),
    "all": ("--set=save_total_limit=9",),
    "bf16": ("--dtype=bfloat16",),
    "dft": ("--method=dft",),
    "cpt": ("--method=cpt",),
    "offline": ("--method=offline",),
    "epochs": ("--max_steps=-1", "--num_train_epochs=2", "--gradient_accumulation_steps=3"),
    "host": ("--teacher_home=host",),
    "host-bf16": ("--teacher_home=host", "--dtype=bfloat16"),
    "synced": ("--teacher_sync_steps=3", "--teacher_update_rate=0.5"),
    "recomputed": ("--activation_checkpointing",),
    "eight-bit": ("--optim=adamw_8bit",),
    "lion": ("--optim=lion_32bit",),
    "schedule": ("--lr_scheduler_type=cosine", "--warmup_steps=2"),
    "few-shot": ("--template=few_shot", "--mask_truncated_completions"),
    "lora-live": ("--lora_r=2", "--teacher=live", "--dtype=bfloat16"),
    "mix": ("--target=mix", "--target_weight=0.5"),
    "budget": ("--target=budget",),
    "contrast": ("--target=contrast", "--method=sdft"),
    "support": ("--token_weight=support",),
    "top-k": ("--divergence_support=top_k", "--divergence_top_k=5", "--divergence_tail"),
    "sampled": ("--divergence_support=sampled", "--divergence=reverse_kl", "--loss_reduction=token_mean"),
    "mixture": ("--completion_source=mixture", "--mixture_share=0.5", "--num_rollouts=2"),
    "accepted": ("--completion_source=accepted", "--stop_on_collapse"),
    "auto": ("--template=auto", "--max_completion_length=8"),
}
"""Kinds of runs: the flags that each adds to ``EVERY_STEP``."""
TIMES = ("wall_seconds", "seconds/", "train_runtime", "train_samples_per_second", "train_steps_per_second")
FINAL = f"{run_folder.STAGING}-model"
"""In the paths of the final save."""
INPUTS = ("M", "rows.jsonl", "anchors.jsonl")


def command(variant: str) -> tuple[str, ...]:
    """The command line of a kind of run, which ends in the folder ``OUT``."""
    return train(*EVERY_STEP, *VARIANTS[variant], output=OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """An uninterrupted run."""

    folder: Path
    seconds: float

    @property
    def ending(self) -> dict[str, Any]:
        return ending(self.folder)


@dataclass
class Result:
    """What came of a case: numbers that are added up, and what is wrong."""

    counts: dict[str, int] = field(default_factory=dict)
    most_lost: int = 0
    wrong: list[str] = field(default_factory=list)


class Home:
    """The folder in which everything takes place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        """Writes model and rows."""
        tokenizer = byte_tokenizer()
        sizes: dict[str, Any] = {
            "vocab_size": 264,
            "max_position_embeddings": 4096,
            "eos_token_id": 256,
            "pad_token_id": 257,
        }
        random_model(**sizes).save_pretrained(self.folder / "M")
        tokenizer.save_pretrained(self.folder / "M")
        rows = [{"prompt": f"What is {n}+1?", "demonstration": str(n + 1)} for n in range(7)]
        run_folder.write_jsonl(self.folder / "rows.jsonl", rows)
        run_folder.write_jsonl(self.folder / "anchors.jsonl", ({"prompt": f"Say {word}."} for word in ("one", "two")))

    def trial(self, name: str) -> Path:
        """A new folder with model and rows, in which the output folder is ``OUT``; so every run has the same paths."""
        folder = self.folder / "trials" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for each in INPUTS:
            (folder / each).symlink_to(self.folder / each)
        return folder

    def whole(self, variant: str) -> Whole:
        """An uninterrupted run of a kind, which is made once."""
        place = self.folder / "trials" / f"whole-{variant}"
        noted = place / "seconds.json"
        with FileLock(f"{self.folder}/{place.name}.lock"):
            if not noted.exists():
                ran = run(self.trial(place.name), command(variant))
                assert ran.code == 0, ran
                noted.write_text(json.dumps(ran.seconds))
        return Whole(folder=place / OUT, seconds=json.loads(noted.read_text()))

    def operations(self, variant: str) -> list[Operation]:
        """What an uninterrupted run of a kind does to files, which is found once."""
        place = self.folder / "trials" / f"watched-{variant}"
        noted = place / "operations.jsonl"
        with FileLock(f"{self.folder}/{place.name}.lock"):
            if not place.exists():
                ran = run(self.trial(place.name), command(variant), prepare=lambda: _note(place / OUT, noted))
                assert ran.code == 0, ran
        return [Operation(**row) for row in run_folder.read_jsonl(noted)]

    def copied(self, source: Path, name: str) -> Path:
        """A new trial whose output folder is a copy of ``source``."""
        place = self.trial(name)
        shutil.copytree(source, place / OUT)
        return place

    def cut(self) -> Path:
        """The output folder of a run that was killed when its last checkpoint was whole and its model not yet saved."""
        place = self.folder / "trials" / "cut"
        with FileLock(f"{self.folder}/cut.lock"):
            if not place.exists():
                at = first(self.operations("ema"), FINAL)
                ran = run(self.trial("cut"), command("ema"), prepare=lambda: kill_at(place / OUT, at))
                assert ran.killed, ran
        return place / OUT


def first(operations: list[Operation], part: str) -> int:
    """Number (from 0) of the first operation on a path that contains ``part``."""
    return next(number for number, one in enumerate(operations) if part in one.path)


def save_of(operations: list[Operation], step: int = 3) -> tuple[int, int]:
    """The numbers of the first operation of a step's save and of the first one of the next step's."""
    start, end = (first(operations, f"{run_folder.STAGING}-checkpoint-{number}") for number in (step, step + 1))
    return start, end


def _note(folder: Path, file: Path) -> None:
    """Has this process write what it does to files in ``folder`` into ``file``."""
    lines = file.open("a", buffering=1)

    def note(operation: Operation) -> None:
        lines.write(json.dumps({"name": operation.name, "path": operation.path, "target": operation.target}) + "\n")

    Watch(folder, before=note).start()


def kill_at(folder: Path, at: int, counted: Number | None = None) -> None:
    """Has the system kill this process when it is about to do operation ``at`` (from 0) on files in ``folder``. A write
    is half done."""
    import os
    import signal

    counted = counted or Number()

    def before(operation: Operation) -> None:
        if counted.value == at:
            operation.tear()
            os.kill(os.getpid(), signal.SIGKILL)
        counted.value += 1

    Watch(folder, before=before).start()


def ending(folder: Path) -> dict[str, Any]:
    """All that a run leaves, without times: files of the model and the last checkpoint as bytes, lines of the records
    as values, and the names in the folder."""
    found: dict[str, Any] = {"names": sorted(path.name for path in folder.iterdir())}
    last = checkpoints_in(folder)[-1]
    for place, others in ((folder, True), (last, False)):
        for name in verify(place, others=others).files:
            path = place / name
            key = str(path.relative_to(folder))
            found[key] = _value(path)
    for name in (run_folder.METRICS, run_folder.ROLLOUTS):
        found[name] = [_timeless(line) for line in run_folder.read_jsonl(folder / name)]
    found[run_folder.RUN_CONFIG] = json.loads((folder / run_folder.RUN_CONFIG).read_text())
    return found


def differences(folder: Path, whole: dict[str, Any]) -> list[str]:
    """In what the end of a run differs from that of an uninterrupted one."""
    try:
        found = ending(folder)
    except (OSError, ValueError, DamagedError, IndexError) as error:
        return [f"the run's folder is not as it should be: {type(error).__name__}: {error}"]
    return [f"{name} differs" for name in sorted(found.keys() | whole.keys()) if found.get(name) != whole.get(name)]


def steps_lost(folder: Path) -> tuple[int, list[str]]:
    """Finished steps after the newest whole checkpoint; and what is wrong with a folder that a kill left."""
    found = newest_valid(folder)
    at = number_of(found.newest) if found.newest else 0
    rows = [_step(line) for line in _lines(folder / run_folder.ROLLOUTS)]
    return max(rows, default=0) - at, [f"damaged by a kill: {one}" for one in found.damaged]


def wrong_model(folder: Path) -> list[str]:
    """What is wrong with the model in a run's folder: it may be whole, or not be taken for whole."""
    try:
        verify(folder, others=True)
    except DamagedError as error:
        if (folder / run_folder.MANIFEST).exists():
            return [f"the model is taken for whole, and {error}"]
    return []


def _lines(path: Path) -> list[bytes]:
    content = path.read_bytes() if path.exists() else b""
    return [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]


def _step(line: bytes) -> int:
    return json.loads(line)["step"]


def _value(path: Path) -> Any:
    """A file's bytes; without times, where it holds any."""
    if path.name not in (run_folder.TRAINER_STATE, run_folder.RUN_STATE):
        return path.read_bytes()
    value = json.loads(path.read_bytes())
    for name in ("seconds", "phase_seconds"):
        value.pop(name, None)
    if "log_history" in value:
        value["log_history"] = [_timeless(row) for row in value["log_history"]]
    return value


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith(TIMES)}
