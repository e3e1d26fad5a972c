"""SIGKILL at random moments and at every operation on files; then the same command, which must end as if nothing had
happened."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from selfdistill import run_folder
from tests.faults.suite.fork import LONGEST, Ran, run, run_and_kill
from tests.faults.suite.home import (
    FINAL,
    OUT,
    VARIANTS,
    Home,
    Result,
    Whole,
    command,
    differences,
    first,
    kill_at,
    save_of,
    steps_lost,
    wrong_model,
)

MOMENTS, EXECUTABLES = 300, 5
"""Numbers of cases in full."""
QUICK_MOMENTS, QUICK_EXECUTABLES, QUICK_OPERATIONS = (0, 73, 146, 219), 1, 5
RESUME = 30
"""Operations of the beginning of a resumed run, up to its first save."""
TRIES = 20
SECOND_KILL = 0.3
"""Share of the random cases in which the resumed run is killed, too."""


def plan(home: Home, *, quick: bool) -> list[str]:
    """Names: ``executable-N``; ``moment-N``; ``save-N``, killed at operation N of a save with the retention after it,
    or of the final save; ``resume-N``, killed in a save, and then at operation N of the resumed run."""
    operations = home.operations("ema")
    saves = [*range(*save_of(operations)), *range(first(operations, FINAL), len(operations))]
    names = [f"save-{at}" for at in saves] + [f"resume-{at}" for at in range(RESUME)]
    if quick:
        names = random.Random(0).sample(names, QUICK_OPERATIONS)
    return [
        *(f"executable-{number}" for number in range(QUICK_EXECUTABLES if quick else EXECUTABLES)),
        *(f"moment-{number}" for number in (QUICK_MOMENTS if quick else range(MOMENTS))),
        *names,
    ]


def run_case(home: Home, seed: int, name: str) -> Result:
    """Runs the case of a name."""
    kind, _, number = name.partition("-")
    chance = random.Random(f"{seed} kills {name}")
    kinds: dict[str, Callable[..., Result]] = {
        "moment": _moment, "executable": _executable, "save": _save, "resume": _resume,
    }  # fmt: skip
    return kinds[kind](home, int(number), chance, f"kills-{name}")


class _Trial:
    """A run that is killed in a folder of its own, and started again until it is done."""

    def __init__(self, home: Home, name: str, variant: str) -> None:
        self.home, self.name, self.variant = home, name, variant
        self.whole: Whole = home.whole(variant)
        self.result = Result(counts={"kills": 0, "resumed_identical": 0})
        self.folder = home.trial(name)

    @property
    def out(self) -> Path:
        return self.folder / OUT

    def killed(self) -> None:
        """Notes a kill and looks at what it left."""
        self.result.counts["kills"] += 1
        lost, wrong = steps_lost(self.out)
        self.result.most_lost = max(self.result.most_lost, lost)
        wrong += wrong_model(self.out)
        self.result.wrong += wrong + ([f"{lost} steps were lost, with a checkpoint after each"] if lost > 1 else [])

    def finish(self) -> Result:
        """Runs the command to its end and compares."""
        if not self.result.counts["kills"]:
            self.result.wrong.append("the command was never killed")
        wrong = run(self.folder, command(self.variant)).wrong(0)
        self.result.wrong += wrong or differences(self.out, self.whole.ending)
        if not self.result.wrong:
            self.result.counts["resumed_identical"] = self.result.counts["kills"]
        else:
            self.result.wrong.append(f"the run is of the kind {self.variant}, in {self.folder}")
        return self.result


def _moment(home: Home, number: int, chance: random.Random, name: str) -> Result:
    trial = _Trial(home, name, list(VARIANTS)[number % len(VARIANTS)])
    for _ in range(TRIES):
        trial.folder = home.trial(name)
        after = chance.uniform(0, trial.whole.seconds)
        if run_and_kill(trial.folder, command(trial.variant), after).killed:
            trial.killed()
            break
    if chance.random() < SECOND_KILL:
        after = chance.uniform(0, trial.whole.seconds)
        if run_and_kill(trial.folder, command(trial.variant), after).killed:
            trial.killed()
    return trial.finish()


def _executable(home: Home, number: int, chance: random.Random, name: str) -> Result:
    """The installed program, in a process that imports everything itself; it is killed after its first record."""
    trial = _Trial(home, name, list(VARIANTS)[number % len(VARIANTS)])
    for _ in range(TRIES):
        trial.folder = home.trial(name)
        process = subprocess.Popen(
            [sys.executable, "-m", "selfdistill", *command(trial.variant)],
            cwd=trial.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + LONGEST
        while process.poll() is None and not (trial.out / run_folder.RUN_CONFIG).exists():
            time.sleep(0.01)
            assert time.monotonic() < deadline, "the executable hangs"
        time.sleep(chance.uniform(0, 0.7 * trial.whole.seconds))
        process.kill()
        if process.wait() < 0:
            trial.killed()
            break
    done = subprocess.run(
        [sys.executable, "-m", "selfdistill", *command(trial.variant)], cwd=trial.folder, capture_output=True, text=True
    )
    trial.result.wrong += Ran(code=done.returncode, said=done.stdout + done.stderr, seconds=0.0).wrong(0)
    return trial.finish()


def _save(home: Home, at: int, chance: random.Random, name: str) -> Result:
    trial = _Trial(home, name, "ema")
    ran = run(trial.folder, command("ema"), prepare=lambda: kill_at(trial.out, at))
    if ran.killed:
        trial.killed()
    else:
        trial.result.wrong.append(f"there was no operation {at}: {ran}")
    return trial.finish()


def _resume(home: Home, at: int, chance: random.Random, name: str) -> Result:
    trial = _Trial(home, name, chance.choice(["ema", "lora", "logging"]))
    saves = range(*save_of(home.operations(trial.variant)))
    for position in (chance.choice(saves), at):
        if run(trial.folder, command(trial.variant), prepare=lambda at=position: kill_at(trial.out, at)).killed:
            trial.killed()
    return trial.finish()
