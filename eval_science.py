"""``python eval_science.py`` of the reference implementation: ``selfdistill eval --dataset_name science``."""

import sys

from selfdistill.cli import main

sys.exit(main(["eval", "--dataset_name", "science", *sys.argv[1:]]))
