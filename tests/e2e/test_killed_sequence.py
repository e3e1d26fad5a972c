"""A sequence of three stages that is killed at random moments, from outside, by the signal that nobody can catch."""

import os
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill import run_folder
from selfdistill.records.studies import ContinualRecord, StageRecord
from tests.support.study_home import TASKS, command_line, make_home


def command(home: Path, name: str) -> list[str]:
    stages = ",".join(str(home / f"{task}.jsonl") for task in TASKS)
    return command_line(home, name, "continual", stages=stages, max_steps=3, methods="sdft", replay=0.3)


def finished(home: Path, name: str) -> list[str]:
    return sorted(path.parent.name for path in (home / name).glob("sdft/*/stage.json"))


def stages_of(home: Path, name: str) -> list[StageRecord]:
    (run,) = run_folder.read_record(home / name / run_folder.CONTINUAL, ContinualRecord).runs
    return [replace(stage, seconds=0.0) for stage in run.stages]


def test_killed_at_random_moments_it_ends_with_the_stages_of_an_unbroken_one(
    tmp_path: Path, tiny_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    home = make_home(tmp_path, tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512), tokenizer)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(name: str) -> None:
        done = subprocess.run(command(home, name), env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    start = time.time()
    run("whole")
    loaded = (home / "whole" / "base.json").stat().st_mtime - start  # imports, and the base's scores
    length = (home / "whole" / "continual.json").stat().st_mtime - start
    moments = [random.SystemRandom().uniform(loaded, length) for _ in range(2)]
    seen = []
    for moment in moments:
        process = subprocess.Popen(
            command(home, "killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moment)
        process.kill()
        process.wait()
        seen.append(finished(home, "killed"))
    run("killed")
    assert stages_of(home, "killed") == stages_of(home, "whole"), (moments, seen)
