"""Four processes at one study, one of which ends at a random moment: it concludes what one process alone concludes."""

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
from tests.support.study_home import TASKS, command_line, make_home, read

PATIENCE = 120.0


def without_seconds(value: Any) -> Any:
    """A JSON value without what depends on how fast it went."""
    if isinstance(value, dict):
        return {name: without_seconds(inner) for name, inner in value.items() if name != "seconds"}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def tables(folder: Path) -> dict[str, str]:
    """The report's tables but for times."""
    return {
        path.name: path.read_text()
        for path in (folder / run_folder.REPORT_TABLES).glob("*.csv")
        if "second" not in path.read_text() and "time" not in path.read_text()
    }


@pytest.mark.parametrize(
    ("command", "number", "end"),
    [("compare", 6, signal.SIGKILL), ("continual", 4, signal.SIGTERM)],  # number: cells or stages
)
def test_four_processes_conclude_what_one_does_though_one_of_them_ends_early(
    tmp_path: Path,
    tiny_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    command: str,
    number: int,
    end: signal.Signals,
) -> None:
    home = make_home(tmp_path, tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512), tokenizer)
    rows = [str(home / f"{task}.jsonl") for task in TASKS]
    own: dict[str, Any] = {"dataset_path": rows[0], "seeds": "0,1,2", "checkpoints": 2}
    if command == "continual":
        own = {"stages": ",".join(rows[:2])}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    started: list[subprocess.Popen[str]] = []

    def start(name: str) -> subprocess.Popen[str]:
        argv = command_line(home, name, command, methods="sft,sdft", max_steps=20, **own)
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(argv, env=environment, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    try:
        alone = start("alone")
        _, said = alone.communicate(timeout=PATIENCE)
        assert alone.returncode == 0, said
        took = (home / f"alone/{command}.json").stat().st_mtime - (home / "alone/base.json").stat().st_mtime
        four = [start("shared") for _ in range(4)]
        while not (home / "shared" / "base.json").exists() and all(each.poll() is None for each in four):
            time.sleep(0.05)
        moment = random.SystemRandom().uniform(0, took)
        time.sleep(moment)
        victim = random.SystemRandom().choice(four)
        victim.send_signal(end)
        outputs = [each.communicate(timeout=PATIENCE) for each in four]
    finally:
        for each in started:
            each.kill()
    codes = [each.returncode for each in four]
    assert all(code == 0 for each, code in zip(four, codes, strict=True) if each is not victim), (outputs, moment)
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
