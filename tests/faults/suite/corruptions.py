"""Damage to the files of a checkpoint: it is found, named, and the run goes on from the checkpoint before."""

import random
from collections.abc import Callable
from pathlib import Path

from selfdistill.checkpoints.find import newest_valid
from selfdistill.checkpoints.manifest import DamagedError, verify
from selfdistill.run_folder import EARLIER, MANIFEST
from tests.faults.suite.fork import run
from tests.faults.suite.home import OUT, Home, Result, command, differences

DAMAGES, QUICK_DAMAGES = 500, 60
RESUMES, QUICK_RESUMES = 20, 2
PAGE = 4096
NEWEST, OLDER = "checkpoint-4", "checkpoint-3"


def _flip(path: Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return path.name


def _truncate(path: Path, chance: random.Random) -> str:
    data = path.read_bytes()
    path.write_bytes(data[: chance.choice([0, len(data) - 1, chance.randrange(len(data))])])
    return path.name


def _zero_page(path: Path, chance: random.Random) -> str:
    data = path.read_bytes()
    start = chance.randrange(0, len(data), PAGE)
    path.write_bytes(data[:start] + bytes(len(data[start : start + PAGE])) + data[start + PAGE :])
    return path.name


def _remove(path: Path, chance: random.Random) -> str:
    path.unlink()
    return path.name


def _add(path: Path, chance: random.Random) -> str:
    added = path.with_name(f"{path.stem}-{chance.randrange(99)}{path.suffix}")
    added.write_bytes(path.read_bytes())
    return added.name


def _from_older(path: Path, chance: random.Random) -> str:
    older = Path(str(path).replace(NEWEST, OLDER))
    path.write_bytes(older.read_bytes())
    return path.name


def _exchange(path: Path, chance: random.Random) -> str:
    """With another file of the checkpoint."""
    others = [other for other in path.parent.iterdir() if other.is_file() and other != path]
    other = chance.choice(sorted(others))
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return path.name


KINDS: dict[str, Callable[[Path, random.Random], str]] = {
    "flip": _flip,
    "truncate": _truncate,
    "zero": _zero_page,
    "remove": _remove,
    "add": _add,
    "older": _from_older,
    "exchange": _exchange,
}
"""Each damages a file and returns the name by which that must be found."""


def plan(home: Home, *, quick: bool) -> list[str]:
    """Names: ``damage-N``, and ``resume-N``, where the command is run with that damage."""
    number, resumes = (QUICK_DAMAGES, QUICK_RESUMES) if quick else (DAMAGES, RESUMES)
    home.cut()
    return [f"damage-{n}" for n in range(number)] + [f"resume-{n * 8}" for n in range(resumes)]


def run_case(home: Home, seed: int, name: str) -> Result:
    """Runs the case of a name."""
    kind, _, number = name.partition("-")
    folder = home.copied(home.cut(), f"corruptions-{name}")
    damage, file, found_as = _damaged(folder / OUT / NEWEST, int(number), random.Random(f"{seed} damage {number}"))
    if kind == "damage":
        return _look(folder / OUT, damage, file, found_as)
    ran = run(folder, command("ema"))
    expected = home.whole("ema").ending
    expected["names"] = sorted([*expected["names"], f"{EARLIER}1"])  # where the damaged one is kept
    wrong = ran.wrong(0) or differences(folder / OUT, expected)
    if not wrong and f"Warning: {NEWEST}: " not in ran.said:
        wrong = [f"the command said nothing of {file}"]
    return Result(wrong=[f"{damage} {file}: {one}" for one in wrong])


def _damaged(checkpoint: Path, number: int, chance: random.Random) -> tuple[str, str, str]:
    """Damages a file, each in turn in each way; the way, the file, and the name by which that must be found."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    kinds = list(KINDS)
    while True:
        kind, path = kinds[number % len(kinds)], files[number // len(kinds) % len(files)]
        before = {each: each.read_bytes() for each in files}
        found_as = KINDS[kind](path, chance)
        after = {each: each.read_bytes() for each in checkpoint.rglob("*") if each.is_file()}
        if after != before:
            return kind, str(path.relative_to(checkpoint)), found_as
        number += len(kinds)  # the bytes are the same, such as zeros that were zeros before


def _look(folder: Path, damage: str, file: str, found_as: str) -> Result:
    result = Result(counts={"corruptions": 1, "corruptions_detected": 0})
    try:
        verify(folder / NEWEST)
        result.wrong.append(f"{damage} {file}: not detected")
    except DamagedError as error:
        result.counts["corruptions_detected"] = 1
        if MANIFEST not in (file, found_as) and damage != "exchange" and found_as not in str(error):
            result.wrong.append(f"{damage} {file}: found as {error}")
    found = newest_valid(folder)
    if found.newest != folder / OLDER or len(found.damaged) != 1 or not found.damaged[0].startswith(f"{NEWEST}: "):
        result.wrong.append(f"{damage} {file}: newest_valid says {found}")
    return result
