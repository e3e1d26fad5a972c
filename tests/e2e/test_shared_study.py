"""Processes at one study, one of which ends at a random moment: it concludes what one process alone concludes."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill import run_folder
from tests.support.study_home import TASKS, alone, command_line, make_home, read, tables, without_seconds

PATIENCE = 300.0


@pytest.mark.parametrize(
    ("command", "number", "processes", "end"),
    [("compare", 6, 4, signal.SIGKILL), ("continual", 4, 2, signal.SIGTERM)],  # number: of cells or stages
)
def test_several_processes_conclude_what_one_does_though_one_of_them_ends_early(
    tmp_path: Path,
    tiny_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    command: str,
    number: int,
    processes: int,
    end: signal.Signals,
) -> None:
    home = make_home(tmp_path, tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512), tokenizer)
    rows = [str(home / f"{task}.jsonl") for task in TASKS]
    own: dict[str, Any] = {"methods": "sft,sdft", "max_steps": 8}
    if command == "compare":
        own |= {"dataset_path": rows[0], "seeds": "0,1,2", "checkpoints": 2}
    else:
        own |= {"stages": ",".join(rows[:2])}
    took = alone(home, command, **own)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    argv, pipe = command_line(home, "shared", command, **own), subprocess.PIPE
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in range(processes):
            started.append(subprocess.Popen(argv, env=environment, stdout=pipe, stderr=pipe, text=True))
        while not (home / "shared" / "base.json").exists() and all(each.poll() is None for each in started):
            time.sleep(0.05)
        moment = random.SystemRandom().uniform(0, took)
        time.sleep(moment)
        victim = random.SystemRandom().choice(started)
        victim.send_signal(end)
        outputs = [each.communicate(timeout=PATIENCE) for each in started]
    finally:
        for each in started:
            each.kill()
    codes = [each.returncode for each in started]
    assert all(code == 0 for each, code in zip(started, codes, strict=True) if each is not victim), (outputs, moment)
    assert victim.returncode in (0, 128 + end if end == signal.SIGTERM else -end), (outputs, moment)
    found, wanted = (without_seconds(read(home / name / f"{command}.json")) for name in ("shared", "alone"))
    assert found == wanted, moment
    assert tables(home / "shared") == tables(home / "alone")
    begun = Counter(
        line.strip()
        for out, _ in outputs
        for line in out.splitlines()
        if line.startswith(("cell ", "sft, stage", "sdft, stage")) and ": done" not in line and "took it" not in line
    )
    assert len(begun) >= number - 1  # of a victim that died with its output, a title may be missing
    assert sum(begun.values()) <= number + 1, (begun, moment)  # none twice, but for the victim's last
    assert not (home / "shared" / run_folder.WORK).exists()
