"""What is tried again in smaller pieces when memory is full."""

from collections.abc import Callable
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache

from selfdistill.errors import UserError, is_out_of_memory

_Result = TypeVar("_Result")


def within_memory(attempt: Callable[[], _Result], smaller: Callable[[], bool], remedy: str) -> _Result:
    """The result of ``attempt``, which is tried again as long as memory is full and its pieces can be made smaller.

    Args:
        attempt: what is tried. It must be able to begin anew.
        smaller: makes the pieces smaller; False if they can't be.
        remedy: the end of the message then.

    Raises:
        UserError: memory is full, and the pieces can't be made smaller.
    """
    while True:
        try:
            return attempt()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        clear_device_cache(garbage_collection=True)  # out here nothing holds the frames of the error any more
        if not smaller():
            raise UserError(f"Memory is full even with one row at a time. {remedy}")
