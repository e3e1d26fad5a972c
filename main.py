"""``python main.py`` of the reference implementation: ``selfdistill train`` with the paper's settings as defaults.

What the teacher is kept in and what is computed twice changes no number, and a 7B model fits one H200.
"""

import sys

from selfdistill.cli import main
from selfdistill.settings import flat
from selfdistill.settings.method import PAPER
from selfdistill.settings.train import TrainOptions

ours = flat.flatten(TrainOptions())
paper = [f"--{name}={value}" for name, value in PAPER.items() if value != ours[name]]
fits = ["--teacher_home=host", "--activation_checkpointing"]
sys.exit(main(["train", *paper, "--overlong=drop", *fits, *sys.argv[1:]]))
