"""A study's runs as tasks of a Ray cluster of this machine, of whose workers one is killed."""

import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from selfdistill.settings.study import ExecutionOptions
from selfdistill.studies.ray_executor import needs
from tests.support.mistakes import mistake, refusal
from tests.support.study_home import alone, command_line, comparison, read, tables, without_seconds

PATIENCE = 200.0
BEGUN = re.compile(r"^cell (\d+) of .*: process (\d+) on", re.MULTILINE)
DONE = re.compile(r"^cell (\d+) of .*: done", re.MULTILINE)


def at_work(shown: str) -> list[int]:
    """Numbers of the processes that are at a cell, by what the command has printed."""
    done = set(DONE.findall(shown))
    return list({cell: int(pid) for cell, pid in BEGUN.findall(shown) if cell not in done}.values())


def test_two_workers_conclude_what_one_process_does_though_one_of_them_is_killed(home: Path) -> None:
    study: dict[str, Any] = {"dataset_path": str(home / "one.jsonl"), "methods": "sft,sdft", "seeds": "0,1"}
    study |= {"checkpoints": 2, "max_steps": 4}
    alone(home, "compare", **study)
    cores = max(1, (os.cpu_count() or 2) // 2)
    argv = command_line(home, "out", "compare", **study, executor="ray", ray_cpus=cores)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment.pop("RAY_ADDRESS", None)
    said, killed, end = home / "said", 0, time.monotonic() + PATIENCE
    with said.open("w") as file, subprocess.Popen(argv, env=environment, stdout=file, stderr=file) as command:
        moment = random.SystemRandom().uniform(0, 4)
        while command.poll() is None and time.monotonic() < end:
            if not killed and (there := at_work(said.read_text())):
                time.sleep(moment)
                victim = random.SystemRandom().choice(at_work(said.read_text()) or there)
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    killed = victim
            time.sleep(0.05)
        command.terminate()
    shown = said.read_text()
    assert command.returncode == 0, shown
    assert f"each run has {cores} and 0." in shown
    assert killed, shown
    assert len(BEGUN.findall(shown)) >= len(set(DONE.findall(shown))) == 4, shown
    assert without_seconds(read(home, "out", "compare.json")) == without_seconds(read(home, "alone", "compare.json"))
    assert tables(home / "out") == tables(home / "alone")
    assert not (home / "out" / ".work").exists()


def test_the_numbers_of_processes_are_read() -> None:
    shown = "cell 1 of 2: sft, lr 1: process 7 on a\ncell 2 of 2: sft, lr 1: process 8 on a\n"
    assert at_work(shown) == [7, 8]
    assert at_work(shown + "cell 1 of 2: sft, lr 1: done\n") == [8]
    assert at_work(shown + "cell 1 of 2: sft, lr 1: process 9 on a, since process 7 on a was lost\n") == [9, 8]


@pytest.mark.parametrize(
    ("resources", "on_cpu", "gpus"),
    [({"CPU": 8.0, "GPU": 2.0}, False, 1), ({"CPU": 8.0, "GPU": 2.0}, True, 0), ({"CPU": 8.0}, False, 0)],
)
def test_a_run_has_a_gpu_where_there_is_one_and_it_is_used(
    resources: dict[str, float], on_cpu: bool, gpus: int
) -> None:
    assert needs(resources, 3, on_cpu=on_cpu) == {"num_cpus": 3, "num_gpus": gpus}


@pytest.mark.parametrize("use_cpu", [True, False])
def test_a_study_is_known_to_stay_on_cpus(home: Path, use_cpu: bool) -> None:
    study = comparison(home, methods="sft", set=(f"use_cpu={use_cpu}".lower(),))
    assert study.runs.stay_on_cpu(study.arms[0], study.subject) == use_cpu


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_named_at_once(home: Path, address: str) -> None:
    said = mistake(comparison(home, methods="sft", executor="ray", ray_address=address).run)
    assert said.startswith(f"No Ray cluster answers at {address} (")
    assert not (home / "out" / "study.json").exists()


def test_without_ray_its_executor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(ExecutionOptions(executor="ray", ray_address="auto", ray_cpus=2).check) is None
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    said = mistake(ExecutionOptions(executor="ray").check)
    assert said.startswith("--executor ray needs the package ray: pip install 'selfdistill[ray]'.")
    assert refusal(ExecutionOptions().check) is None


@pytest.mark.parametrize("given", [{"ray_address": "auto"}, {"ray_cpus": 2}])
def test_settings_of_ray_without_ray_are_refused(given: dict[str, Any]) -> None:
    ((name, value),) = given.items()
    assert mistake(ExecutionOptions(**given).check) == (
        f"--{name} {value} counts only with --executor ray. Give both or neither."
    )
