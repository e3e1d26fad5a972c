"""The folder of this user's cached files, and whether the embedded model is in it. Imports no torch."""

import json
import os
import sys
from pathlib import Path

from selfdistill.settings.groups import DEFAULT_MODEL

EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the file that the embedded model is made from."""
EMBEDDED_FOLDER = f"{DEFAULT_MODEL}-{EMBEDDED_SHA256[:8]}"
"""Name of the converted model's folder in the cache."""


def cache_dir() -> Path:
    """SELFDISTILL_CACHE, or ``selfdistill`` in the platform's user cache folder. It may not exist yet."""
    if chosen := os.environ.get("SELFDISTILL_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "selfdistill"


def has_embedded_model() -> bool:
    """Whether the embedded model is in the cache, so that using it downloads nothing."""
    return is_complete(cache_dir() / EMBEDDED_FOLDER)


def is_complete(folder: Path) -> bool:
    """Whether every file of the folder's manifest exists with the right size."""
    try:
        files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no file, no JSON, or not our record
        return False
