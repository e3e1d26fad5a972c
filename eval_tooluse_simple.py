"""The reference's ``python eval_tooluse_simple.py``: the same as ``selfdistill eval --dataset_name tooluse``."""

import sys

from selfdistill.cli import main

sys.exit(main(["eval", "--dataset_name", "tooluse", *sys.argv[1:]]))
