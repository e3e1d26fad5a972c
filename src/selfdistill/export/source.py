"""What is exported: a run's model, a checkpoint, a version of a ledger, or any other model."""

from dataclasses import dataclass
from pathlib import Path

import torch

from selfdistill import run_folder
from selfdistill.ledger import folder as ledgers
from selfdistill.ledger.folder import BASE, Ledger
from selfdistill.models.loading import load_config
from selfdistill.models.places import adapter_base, is_adapter, locate
from selfdistill.records.runs import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model and what is known of it."""

    name: str
    """Folder, or another name that ``load_model`` takes."""
    folder: Path | None
    """The model's folder; None if it is not a folder here."""
    base: str | None
    """The base of an adapter, as ``load_model`` takes it; None for a whole model."""
    run: RunConfig | None
    """The run that made it."""
    ledger: Ledger | None
    """The ledger that it is a version of."""
    version: int
    """Its number in the ledger."""

    @property
    def dtype(self) -> torch.dtype:
        """In which the model's weights, or those of an adapter's base, are saved."""
        return getattr(load_config(self.name), "dtype", None) or torch.float32


def find_source(name: str) -> Source:
    """Finds the model that ``name`` means. Raises UserError if there is none, or a record beside it is broken."""
    path = Path(name)
    ledger, version = None, BASE
    if (path / run_folder.LEDGER).is_file():
        ledger = ledgers.read(path)
        name, version = ledger.model_name(ledger.current), ledger.current
    elif (path.resolve().parents[1] / run_folder.LEDGER).is_file() and path.name.isdecimal():
        ledger, version = ledgers.read(path.resolve().parents[1]), int(path.name)
        ledger.version(version)
    place = locate(name)
    folder = place if isinstance(place, Path) and place.is_dir() else None
    return Source(
        name=name,
        folder=folder,
        base=adapter_base(folder) if folder is not None and is_adapter(folder) else None,
        run=None if folder is None else _run_of(folder),
        ledger=ledger,
        version=version,
    )


def _run_of(folder: Path) -> RunConfig | None:
    """The record of the run that made the model in a folder: beside it, or, of a checkpoint, in its state."""
    for path in (folder / run_folder.RUN_CONFIG, folder / run_folder.STATE / run_folder.RUN_CONFIG):
        if path.is_file():
            return run_folder.read_record(path, RunConfig)
    return None
