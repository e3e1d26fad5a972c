"""Disks that are full, broken or read-only; export; signals; locks; folders that vanish; damage to everything.

A fault counts once, however many moments it is tried at. The command ends with the code of its kind, without a
traceback; the same command, once the fault is gone, ends as if nothing had happened.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from selfdistill import run_folder
from selfdistill.checkpoints.find import checkpoints_in, newest_valid, number_of
from tests.faults.suite import ledgers
from tests.faults.suite.failing import DAMAGED, DISK, REFUSED, WRITES, fail_at
from tests.faults.suite.fork import LONGEST, Process, Ran, run, start
from tests.faults.suite.home import (
    FINAL,
    OUT,
    Home,
    Result,
    command,
    differences,
    first,
    kill_at,
    save_of,
    wrong_model,
)
from tests.faults.suite.operations import Operation, Watch

QUICK_MOMENTS = 2
DISKS = {"full": errno.ENOSPC, "broken": errno.EIO, "read-only": errno.EROFS, "forbidden": errno.EACCES}


def _resumed(home: Home, folder: Path) -> list[str]:
    """What is wrong with what the command makes of a folder when the fault is gone."""
    return run(folder, command("ema")).wrong(0) or differences(folder / OUT, home.whole("ema").ending)


def _disk(home: Home, folder: Path, at: int, number: int, *, half: bool = False) -> list[str]:
    ran = run(folder, command("ema"), prepare=lambda: fail_at(folder / OUT, at, number, half=half))
    if ran.code == 0:  # it was in an operation that nothing depends on
        return ran.wrong(0) or differences(folder / OUT, home.whole("ema").ending)
    wrong = ran.wrong(DISK)
    if at >= save_of(home.operations("ema"))[0]:
        found = newest_valid(folder / OUT)
        step = number_of(found.newest) if found.newest else 0
        wrong += [f"it left a damaged checkpoint: {one}" for one in found.damaged]
        wrong += [f"only the checkpoint of step {step} is whole"] if step < 2 else []
    return wrong + wrong_model(folder / OUT) + _resumed(home, folder)


def _export_killed(home: Home, folder: Path, at: int) -> list[str]:
    ran = run(folder, command("ema"), prepare=lambda: kill_at(folder / OUT, at))
    wrong = [] if ran.killed else [f"it was not killed: {ran}"]
    return wrong + wrong_model(folder / OUT) + _resumed(home, folder)


def _signalled(home: Home, folder: Path, at: int, number: signal.Signals) -> list[str]:
    """Told to stop at an operation of a save."""
    done = -1

    def before(operation: Operation) -> None:
        nonlocal done
        done += 1
        if done == at:
            os.kill(os.getpid(), number)

    ran = run(folder, command("ema"), prepare=lambda: Watch(folder / OUT, before=before).start())
    return ran.wrong(128 + number) + _resumed(home, folder)


def _paused(folder: Path, at: int, meanwhile: Callable[[], None]) -> Ran:
    """Runs the command, with something happening when it is about to do operation ``at``."""
    done = -1

    def before(operation: Operation) -> None:
        nonlocal done
        done += 1
        if done == at:
            (folder / "waits").touch()
            _wait_for(folder / "go")

    process = start(folder, command("ema"), prepare=lambda: Watch(folder / OUT, before=before).start())
    _wait_for(folder / "waits", process)
    meanwhile()
    (folder / "go").touch()
    return process.end()


def _wait_for(file: Path, process: Process | None = None) -> None:
    deadline = time.monotonic() + LONGEST
    while not file.exists():
        if process is not None and (ended := process.wait(0)) is not None:
            raise RuntimeError(f"the command ended before it should: {ended}")
        assert time.monotonic() < deadline, f"{file} did not appear"
        time.sleep(0.01)


def _two_runs(home: Home, folder: Path, at: int) -> list[str]:
    second: list[Ran] = []
    other = home.trial(f"{folder.name}-second")
    (other / OUT).symlink_to(folder / OUT)
    one = _paused(folder, at, lambda: second.append(run(other, command("ema"))))
    wrong = second[0].wrong(REFUSED) + one.wrong(0) + differences(folder / OUT, home.whole("ema").ending)
    return wrong + ([] if "another command is using it" in second[0].said else [second[0].said])


def _reused_pid(home: Home, folder: Path, at: int) -> list[str]:
    """The lock file that a killed run left names a process that lives: a number can be given again."""
    assert run(folder, command("ema"), prepare=lambda: kill_at(folder / OUT, at)).killed
    (folder / OUT / run_folder.LOCK).write_text(f"{os.getpid()}\n")
    wrong = run(folder, command("ema")).wrong(0)
    (folder / OUT / run_folder.LOCK).write_text("")
    return wrong or differences(folder / OUT, home.whole("ema").ending)


def _removed(home: Home, folder: Path, at: int) -> list[str]:
    return _paused(folder, at, lambda: shutil.rmtree(folder / OUT)).wrong(DISK) + _resumed(home, folder)


def _renamed(home: Home, folder: Path, at: int) -> list[str]:
    wrong = _paused(folder, at, lambda: (folder / OUT).rename(folder / "moved") and None).wrong(DISK)
    shutil.rmtree(folder / OUT, ignore_errors=True)
    (folder / "moved").rename(folder / OUT)
    return wrong + _resumed(home, folder)


def _all_damaged(home: Home, folder: Path, at: int) -> list[str]:
    shutil.copytree(home.cut(), folder / OUT)
    for checkpoint in checkpoints_in(folder / OUT):
        (checkpoint / "model.safetensors").write_bytes(b"")
    ran = run(folder, command("ema"))
    named = "model.safetensors has 0 bytes" in ran.said
    return ran.wrong(DAMAGED) + ([] if named else [f"it does not name the file: {ran.said}"])


def _torn_records(home: Home, folder: Path, at: int) -> list[str]:
    """A block of zeros and half a line at the end of the records, as a power cut may leave them."""
    assert run(folder, command("ema"), prepare=lambda: kill_at(folder / OUT, at)).killed
    for name in (run_folder.METRICS, run_folder.ROLLOUTS):
        with (folder / OUT / name).open("ab") as file:
            file.write(bytes(600) + b'\n{"step": 4, "lo')
    return _resumed(home, folder)


def _real_full_disk(home: Home, folder: Path, at: int) -> list[str]:
    """A file system of 4 MB in memory, which somebody else fills up during the run."""
    (folder / OUT).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder / OUT)], check=True)
    filler = folder / OUT / ".filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1024)):
                    pass
            except OSError:
                pass
        os.truncate(filler, filler.stat().st_size - 100 * 1024)

    try:
        wrong = _paused(folder, at, fill).wrong(DISK)
        filler.unlink()
        return wrong + _resumed(home, folder)
    finally:
        subprocess.run(["umount", str(folder / OUT)], check=True)


def can_mount() -> bool:
    """Whether this process may mount a file system."""
    place = Path(f"/tmp/faults-mount-{os.getpid()}")
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], capture_output=True)
        if done.returncode == 0:
            subprocess.run(["umount", str(place)], check=True)
        return done.returncode == 0
    except OSError:
        return False
    finally:
        place.rmdir()


Try = Callable[[Home, Path, int], list[str]]
FAULTS: dict[str, Try] = {
    **{name: lambda h, f, at, number=number: _disk(h, f, at, number) for name, number in DISKS.items()},
    "short": lambda h, f, at: _disk(h, f, at, errno.ENOSPC, half=True),
    "export-full": lambda h, f, at: _disk(h, f, at, errno.ENOSPC),
    "export-killed": _export_killed,
    "sigint": lambda h, f, at: _signalled(h, f, at, signal.SIGINT),
    "sigterm": lambda h, f, at: _signalled(h, f, at, signal.SIGTERM),
    "two-runs": _two_runs,
    "reused-pid": _reused_pid,
    "removed": _removed,
    "renamed": _renamed,
    "all-damaged": _all_damaged,
    "torn-records": _torn_records,
    "real-full-disk": _real_full_disk,
    "ledger-killed": ledgers.killed,
    "ledger-full": ledgers.full,
}
"""What happens in a fault at one moment, in a folder of its own; returns what is wrong."""


def moments(home: Home, name: str) -> list[int]:
    """Numbers of the operations at which a fault is tried."""
    if name.startswith("ledger"):
        return list(range(ledgers.operations(home)))
    operations = home.operations("ema")
    save, final = range(*save_of(operations)), range(first(operations, FINAL), len(operations))
    if name in DISKS:
        return [at for at in save if operations[at].name in WRITES]
    if name == "short":
        return [at for at in save if operations[at].name in ("write", "serialize")]
    if name == "export-full":
        return [at for at in final if operations[at].name in WRITES]
    if name == "export-killed":
        return list(final)[::5]
    if name in ("all-damaged", "two-runs", "real-full-disk"):
        return [save[0]]
    return list(save)[::9]


def plan(home: Home, *, quick: bool) -> list[str]:
    """Names: ``FAULT.MOMENT.MOMENT...``."""
    names = []
    for fault in FAULTS:
        if fault == "real-full-disk" and not can_mount():
            continue
        all_of_them = moments(home, fault)
        chosen: Iterable[int] = all_of_them
        if quick and len(all_of_them) > QUICK_MOMENTS:
            chosen = sorted(random.Random(fault).sample(all_of_them, QUICK_MOMENTS))
        names.append(".".join([fault, *map(str, chosen)]))
    return names


def run_case(home: Home, seed: int, name: str) -> Result:
    """Runs the case of a name."""
    fault, *numbers = name.split(".")
    result = Result(counts={"other_faults_total": 1, "other_faults_passed": 0})
    for at in map(int, numbers):
        folder = home.trial(f"others-{fault}-{at}")
        wrong = FAULTS[fault](home, folder, at)
        result.wrong += [f"at operation {at}: {one}" for one in wrong]
        if not wrong:
            shutil.rmtree(folder)
    result.counts["other_faults_passed"] = int(not result.wrong)
    return result
