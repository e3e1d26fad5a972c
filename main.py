"""``python main.py`` of the reference implementation: ``selfdistill train`` with the paper's settings as defaults."""

import sys

from selfdistill.cli import main
from selfdistill.settings import flat
from selfdistill.settings.method import PAPER
from selfdistill.settings.train import TrainOptions

ours = flat.flatten(TrainOptions())
paper = [f"--{name}={value}" for name, value in PAPER.items() if value != ours[name]]
sys.exit(main(["train", *paper, "--overlong=drop", *sys.argv[1:]]))
