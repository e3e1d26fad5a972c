"""Running the evidence's studies."""

import signal
import sys

from evidence.run import run


def test_a_study_is_told_to_stop_with_the_program_that_runs_it() -> None:
    stops_its_parent = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    before = signal.getsignal(signal.SIGTERM)
    assert run([sys.executable, "-c", stops_its_parent]) == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert run([sys.executable, "-c", "raise SystemExit(3)"]) == 3
