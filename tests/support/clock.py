"""Time that other work on the machine does not lengthen."""

import os


def processor_seconds() -> float:
    """Processor time that this process and its ended children have used so far."""
    return sum(os.times()[:4])
