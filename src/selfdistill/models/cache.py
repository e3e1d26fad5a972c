"""The folder of this user's cached files. Imports no torch."""

import os
import sys
from pathlib import Path


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
