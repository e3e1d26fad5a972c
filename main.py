"""The reference's ``python main.py``: ``selfdistill train`` with the reference's template and token skip."""

import sys

from selfdistill.cli import main

REFERENCE = "--template=paper --num_loss_tokens_to_skip=3 --teacher_update_rate=0.01 --max_completion_length=1024"
sys.exit(main(["train", *REFERENCE.split(), *sys.argv[1:]]))
