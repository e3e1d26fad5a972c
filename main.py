"""The reference's ``python main.py``: the same as ``selfdistill train``."""

import sys

from selfdistill.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
