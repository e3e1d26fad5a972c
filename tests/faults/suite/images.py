"""States of a folder that a power cut can leave, and what is found in them.

In each: the newest checkpoint that is whole is not older than the last whose commit had returned; no checkpoint is
damaged; checkpoint and model are, byte for byte, what one write wrote; recovery and the next success leave nothing
half-done behind. From some of them the command is run, which must end as if nothing had happened.
"""

import pickle
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file

from selfdistill import run_folder
from selfdistill.checkpoints.commit import commit, install, tidy
from selfdistill.checkpoints.find import checkpoints_in, newest_valid, number_of, retain
from selfdistill.checkpoints.manifest import DamagedError, Manifest, verify
from selfdistill.method import trainer, trainer_state
from selfdistill.method.state_tree import load_tree
from selfdistill.records.runs import RunConfig, RunState
from selfdistill.run_folder import CHECKPOINT, MANIFEST, STAGING, TRASH
from tests.faults.suite.fork import Process, run
from tests.faults.suite.home import OUT, Home, Result, command, differences, first, kill_at
from tests.faults.suite.operations import Watch
from tests.faults.suite.power import MODES, ROOT, Event, Recorder, Tree, after_power_cut, build, state

_here = sys.modules[__name__]
FEWEST_IMAGES, QUICK_IMAGES = 1000, 150
RESUMES, QUICK_RESUMES = 40, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A checkpoint or the model of a folder, as one write wrote it."""

    step: int
    tree: Tree
    begun: int
    """Number of events before the first that takes something old away."""
    done: int
    """Number of events after which the write had returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Events in a folder, the first ``start`` of which are on disk for certain."""

    events: list[Event]
    start: int
    checkpoints: list[Version]
    models: list[Version]


# -- what is recorded ------------------------------------------------------------------------------------------------


def _train(folder: Path) -> None:
    from selfdistill.cli import main

    assert main(command("ema")) == 0


def _files(text: str, names: tuple[str, ...]) -> Callable[[Path], None]:
    """Writes files of many blocks, in a folder and in one below it."""

    def write(folder: Path) -> None:
        for name in names:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{text} {name}\n" * 3000)

    return write


OLD, NEW = ("config.json", "model", "old", "state/optimizer"), ("config.json", "model", "new", "state/optimizer")


def _killed_run(home: Home, name: str, part: str, later: int) -> Path:
    """A trial whose run was killed ``later`` operations after the first one on ``part``."""
    folder = home.trial(f"before-{name}")
    at = first(home.operations("ema"), part) + later
    assert run(folder, command("ema"), prepare=lambda: kill_at(folder / OUT, at)).killed
    return folder


def _committed(home: Home, name: str) -> Path:
    folder = home.trial(f"before-{name}")
    (folder / OUT).mkdir()
    commit(folder / OUT / f"{CHECKPOINT}1", _files("old", OLD))
    return folder


def _installed(home: Home, name: str) -> Path:
    folder = home.trial(f"before-{name}")
    install(folder / OUT, _files("old", OLD))
    return folder


SCENARIOS: dict[str, tuple[Callable[[Home, str], Path], Callable[[Path], None]]] = {
    "run": (lambda home, name: home.trial(f"before-{name}"), _train),
    "resume-save": (lambda home, name: _killed_run(home, name, f"{STAGING}-checkpoint-3", 40), _train),
    "resume-retention": (lambda home, name: _killed_run(home, name, TRASH, 6), _train),
    "replace": (_committed, lambda folder: commit(folder / f"{CHECKPOINT}1", _files("new", NEW)) and None),
    "install": (_installed, lambda folder: install(folder, _files("new", NEW)) and None),
}
"""What makes the folder beforehand, and what is recorded in it: whole runs, a checkpoint and a model that replace
another."""
RUNS = ("run", "resume-save", "resume-retention")


def recorded(home: Home, name: str) -> Recorded:
    """The events of a scenario, which is run once."""
    file = home.folder / f"recorded-{name}.pickle"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            make, act = SCENARIOS[name]
            folder = make(home, name)
            ended = Process(folder, lambda: _record(folder / OUT, act, file)).end()
            assert ended.code == 0, ended
    return _read(file)


@cache
def _read(file: Path) -> Recorded:
    events, start, returned = pickle.loads(file.read_bytes())
    return Recorded(
        events=events,
        start=start,
        checkpoints=_checkpoints(events, start, returned),
        models=_models(events, start, returned),
    )


def _record(folder: Path, act: Callable[[Path], None], file: Path) -> None:
    recorder = Recorder(folder)
    returned: list[tuple[str, int]] = []  # names of what was written, and the number of events when that was done

    def noting(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(folder: Path, *arguments: Any) -> Any:
            result = write(folder, *arguments)
            recorder.look()
            returned.append((folder.name, len(recorder.events)))
            return result

        return call

    for module, name in ((trainer_state, "commit"), (trainer, "install"), (_here, "commit"), (_here, "install")):
        setattr(module, name, noting(getattr(module, name)))
    Watch(folder, before=recorder.before, after=recorder.after).start()
    act(folder)
    recorder.look()
    file.write_bytes(pickle.dumps((recorder.events, recorder.start, returned)))


def _below(tree: Tree, name: str) -> Tree:
    return {path.removeprefix(f"{name}/"): data for path, data in tree.items() if path.startswith(f"{name}/")}


def _checkpoints(events: list[Event], start: int, returned: list[tuple[str, int]]) -> list[Version]:
    before = state(events[:start])
    names = {path.partition("/")[0] for path in before if path.startswith(CHECKPOINT)}
    found = [Version(step=number_of(Path(name)), tree=_below(before, name), begun=0, done=0) for name in sorted(names)]
    for position in range(start, len(events)):
        event = events[position]
        if event.kind == "move" and event.folder == ROOT and event.name.startswith(CHECKPOINT):
            tree = _below(state(events[: position + 1]), event.name)
            done = next(count for name, count in returned if name == event.name and count > position)
            found.append(Version(step=number_of(Path(event.name)), tree=tree, begun=position, done=done))
    return found


def _models(events: list[Event], start: int, returned: list[tuple[str, int]]) -> list[Version]:
    found: list[Version] = []
    before = state(events[:start])
    if MANIFEST in before:
        found.append(Version(step=0, tree=_listed(before), begun=0, done=0))
    gone: int | None = None
    for position in range(start, len(events)):
        event = events[position]
        if (event.folder, event.name) != (ROOT, MANIFEST):
            continue
        if event.kind == "remove":
            gone = position
        elif event.kind == "move":
            tree = _listed(state(events[: position + 1]))
            done = next(count for name, count in returned if name == OUT and count > position)
            found.append(Version(step=0, tree=tree, begun=position if gone is None else gone, done=done))
    return found


def _listed(tree: Tree) -> Tree:
    import json

    listed = run_folder.as_record(json.loads(tree[MANIFEST] or b""), Manifest).files
    return {name: tree[name] for name in listed}


# -- what is found ---------------------------------------------------------------------------------------------------


def plan(home: Home, *, quick: bool) -> list[str]:
    """Names: ``SCENARIO.EVENTS.MODE``, and with ``.run`` at the end where the command is run from there."""
    chance = random.Random(0)
    found = {scenario: recorded(home, scenario) for scenario in SCENARIOS}
    prefixes = [(name, number) for name, one in found.items() for number in range(one.start, len(one.events) + 1)]
    chance.shuffle(prefixes)
    count = QUICK_IMAGES if quick else max(FEWEST_IMAGES, len(prefixes))
    names = []
    for place in range(count):
        scenario, number = prefixes[place % len(prefixes)]
        names.append(f"{scenario}.{number}.{MODES[place % len(MODES)]}")
    of_runs = [name for name in names if name.partition(".")[0] in RUNS]
    return names + [f"{name}.run" for name in of_runs[: QUICK_RESUMES if quick else RESUMES]]


def run_case(home: Home, seed: int, name: str) -> Result:
    """Runs the case of a name."""
    scenario, number, mode, *more = name.split(".")
    found, until = recorded(home, scenario), int(number)
    chance = random.Random(f"{seed} images {scenario}.{number}.{mode}")
    tree = after_power_cut(found.events[:until], next(one for one in MODES if one == mode), chance)
    folder = home.trial(f"images-{name}")
    build(tree, folder / OUT)
    if more:
        wrong = run(folder, command("ema")).wrong(0) or differences(folder / OUT, home.whole("ema").ending)
        return Result(wrong=wrong)
    return Result(counts={"crash_images": 1}, wrong=_look(folder / OUT, found, until, load=scenario in RUNS))


def _look(folder: Path, recorded: Recorded, until: int, *, load: bool) -> list[str]:
    """What is wrong with a folder as a power cut left it."""
    wrong = _wrong_model(folder, recorded.models, until)
    before = newest_valid(folder)
    wrong += [f"a power cut damaged {one}" for one in before.damaged]
    if before.newest is not None:
        wrong += _wrong_checkpoint(before.newest, recorded.checkpoints, until)
    if load and before.newest is not None:
        _load(before.newest)
    tidy(folder)
    after = newest_valid(folder)
    wrong += _wrong_checkpoint(after.newest, recorded.checkpoints, until)
    if before.newest is not None and after.newest != before.newest:
        wrong.append(f"recovery made {after.newest} of {before.newest}")
    wrong += _half_done(folder, "recovery")
    commit(folder / f"{CHECKPOINT}99", _files("next", NEW))
    retain(folder, 2)
    wrong += _half_done(folder, "the next checkpoint")
    if (newest := newest_valid(folder).newest) is None or number_of(newest) != 99:
        wrong.append(f"the next checkpoint is not the newest, but {newest}")
    if len(kept := checkpoints_in(folder)) > 2:
        wrong.append(f"there are still {len(kept)} checkpoints")
    return wrong


def _wrong_checkpoint(newest: Path | None, versions: list[Version], until: int) -> list[str]:
    """What is wrong with the newest whole checkpoint after a number of events."""
    due = max((version.step for version in versions if version.done <= until), default=0)
    step = number_of(newest) if newest else 0
    if step < due:
        return [f"the newest whole checkpoint is of step {step}, though that of step {due} was committed"]
    if newest is None:
        return []
    return _unlike(_read_files(newest), [version for version in versions if version.step == step], until)


def _wrong_model(folder: Path, versions: list[Version], until: int) -> list[str]:
    """What is wrong with the model in a folder after a number of events."""
    try:
        listed = verify(folder, others=True).files
    except DamagedError as error:
        done = [number for number, version in enumerate(versions) if version.done <= until]
        coming = versions[done[-1] + 1 :] if done else []
        if not done or (coming and coming[0].begun < until):
            return []
        return [f"the model is damaged although it was saved: {error}"]
    found: Tree = {name: (folder / name).read_bytes() for name in listed}
    return _unlike(found, versions, until)


def _unlike(found: Tree, versions: list[Version], until: int) -> list[str]:
    """Says so if files are not those of a version that can be there: the last one that was done, or a later one."""
    done = [number for number, version in enumerate(versions) if version.done <= until]
    allowed = versions[done[-1] if done else 0 :]
    if any(found == {path: data for path, data in one.tree.items() if data is not None} for one in allowed):
        return []
    return ["what is taken for whole is not what was written"]


def _read_files(folder: Path) -> Tree:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _load(checkpoint: Path) -> None:
    """Reads a checkpoint as a resumed run does. Raises what that raises."""
    folder = checkpoint / run_folder.STATE
    load_file(checkpoint / "model.safetensors")
    load_file(folder / run_folder.MASTERS)
    load_file(folder / run_folder.TEACHER)
    load_tree(folder, run_folder.OPTIMIZER)
    load_tree(folder, run_folder.RANDOM)
    run_folder.read_record(folder / run_folder.RUN_STATE, RunState)
    run_folder.read_record(folder / run_folder.RUN_CONFIG, RunConfig)


def _half_done(folder: Path, after: str) -> list[str]:
    left = [path.name for path in folder.iterdir() if path.name.startswith((f"{STAGING}-", f"{TRASH}-"))]
    return [f"{left[0]} is there after {after}"] if left else []
