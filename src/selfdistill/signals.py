"""What this process does when a signal comes."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def handled(handler: Callable[[int, object], None], *numbers: signal.Signals) -> Generator[None]:
    """Context in which ``handler`` is called with the number of a signal, if it is one of ``numbers``, and a frame.

    Only a process's first thread can set this; in another one signals do what they did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
