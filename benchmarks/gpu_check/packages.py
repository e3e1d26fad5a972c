"""Packages that the check needs, those that it can do without, and a stand-in for one of these."""

import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

NEEDED = ("torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "jinja2", "psutil")
"""What training imports; nothing runs without them."""
OPTIONAL = {
    "tyro": "flags of the command line, which nothing here reads",
    "pydantic": "reading a checkpoint's records: no resumed run",
    "bitsandbytes": "moments of 8 bits",
    "datasets": "TRL's trainer",
    "trl": "TRL's trainer",
}
"""What else is used, and for what."""
SOURCE = Path(__file__).parents[2] / "src"


def missing(names: Iterable[str]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in names if find_spec(name) is None]


def missing_text(names: list[str]) -> str:
    """One sentence about packages that are missing, and what that leaves out."""
    if not names:
        return "No package is missing."
    return f"Not installed: {', '.join(f'{name} ({OPTIONAL[name]})' for name in names)}."


def find_selfdistill() -> None:
    """Makes this checkout's package importable where none is installed."""
    if find_spec("selfdistill") is None:
        sys.path.insert(0, str(SOURCE))


def stand_in_for_tyro() -> None:
    """Lets selfdistill's settings be imported without tyro, which they only use to declare command-line flags."""
    if "tyro" not in sys.modules and find_spec("tyro") is None:
        module = MagicMock()
        module.__spec__ = ModuleSpec("tyro", None)
        sys.modules["tyro"] = sys.modules["tyro.constructors"] = module
