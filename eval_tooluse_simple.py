"""``python eval_tooluse_simple.py`` of the reference implementation: ``selfdistill eval --dataset_name tooluse``."""

import sys

from selfdistill.cli import main

sys.exit(main(["eval", "--dataset_name", "tooluse", *sys.argv[1:]]))
