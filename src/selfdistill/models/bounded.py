"""Runs a function that makes text out of somebody else's template, in a child process that is killed if it goes on."""

import contextlib
import gc
import os
import pickle
import select
import signal
import struct
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NoReturn

from selfdistill.errors import UserError

SECONDS = 2.0
"""Processor time that a call may take: a busy machine, on which it waits for its turn, is not its fault."""
PATIENCE = 10
"""After so many times as many seconds by the clock the child counts as stuck, and the call is begun once more."""
MOST_BYTES = 1 << 24
"""Longest text that a call may return, as UTF-8."""
MEMORY = 1 << 30
"""Bytes of address space that the child may take in addition to what it begins with; Linux only."""
IDLE = 4.0
"""Seconds without a call after which the child ends. While it lives, memory that this process changes exists twice."""
_LENGTH = struct.Struct("=cQ")
_SAID, _FAILED, _USER_ERROR = b"t", b"e", b"u"


class BoundedError(ValueError):
    """The function failed, took too long or returned too much. The message says which, in a few words."""


class Bounded:
    """A function that runs in a forked child, which ends soon after a call if no other follows.

    The child is a copy of this process as it then was, so that the function may use whatever this process has loaded.
    Where a process can't be forked (Windows) the function runs in this process, without limits.

    Args:
        function: takes arguments that pickle can copy, and returns text.
        seconds: processor time after which a call ends.
    """

    def __init__(self, function: Callable[..., str], *, seconds: float = SECONDS) -> None:
        self._function, self._seconds = function, seconds
        self._lock = threading.Lock()
        self._stop: weakref.finalize[..., Any] | None = None
        self._ends = (-1, -1)
        self._owner = -1
        self._used = 0.0

    def __call__(self, *arguments: Any, **named: Any) -> str:
        """The function's text.

        Raises:
            UserError: the function raised it.
            BoundedError: the function raised anything else, or a limit was reached.
        """
        if not hasattr(os, "fork"):
            return _in_this_process(self._function, arguments, named)
        request = pickle.dumps((arguments, named))
        with self._lock:
            try:
                kind, answer = self._answer(request)
            except TimeoutError:  # a child may wait for a lock that a thread of its parent held when it was forked
                try:
                    kind, answer = self._answer(request)
                except TimeoutError as error:
                    raise _too_long(PATIENCE * self._seconds) from error
        text = answer.decode("utf-8", "surrogatepass")
        if kind == _SAID:
            return text
        raise UserError(text) if kind == _USER_ERROR else BoundedError(text)

    def _answer(self, request: bytes) -> tuple[bytes, bytes]:
        """The kind of a call's answer, and its text. TimeoutError, and no child, if the child is stuck."""
        # half of IDLE, because the child may be about to end
        if self._stop is not None and time.monotonic() - self._used > IDLE / 2:
            self._stop()
        if self._stop is None or not self._stop.alive or self._owner != os.getpid():
            self._start()
        assert self._stop is not None
        try:
            answer = self._ask(request)
        except (BrokenPipeError, EOFError) as error:
            status = self._stop()
            if status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
                raise _too_long(self._seconds) from error
            raise BoundedError("it takes too much memory, or was ended") from error
        except BaseException:
            self._stop()
            raise
        self._used = time.monotonic()
        return answer

    def _ask(self, request: bytes) -> tuple[bytes, bytes]:
        read_end, write_end = self._ends
        end = time.monotonic() + PATIENCE * self._seconds
        data = memoryview(_LENGTH.pack(_SAID, len(request)) + request)
        while data:
            if not _ready(write_end, select.POLLOUT, end - time.monotonic()):
                raise TimeoutError
            data = data[os.write(write_end, data[:4096]) :]  # a block that poll has promised to take
        kind, size = _LENGTH.unpack(_read(read_end, _LENGTH.size, end))
        if size > MOST_BYTES:
            raise BoundedError(f"it makes more than {MOST_BYTES:,} bytes")
        return kind, _read(read_end, size, end)

    def _start(self) -> None:
        calls, answers = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            # The child only runs the function, and uses no lock that another thread may have held.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _serve(self._function, calls[0], answers[1], self._seconds)
        os.close(calls[0])
        os.close(answers[1])
        self._ends, self._owner = (answers[0], calls[1]), os.getpid()
        self._stop = weakref.finalize(self, _end, child, self._ends, self._owner)


def _too_long(seconds: float) -> BoundedError:
    return BoundedError(f"it takes longer than {seconds:g} seconds")


def _in_this_process(function: Callable[..., str], arguments: Any, named: Any) -> str:
    try:
        return function(*arguments, **named)
    except UserError:
        raise
    except Exception as error:
        raise BoundedError(_told(error)) from error


def _read(descriptor: int, size: int, end: float) -> bytes:
    blocks = bytearray()
    while len(blocks) < size:
        if not _ready(descriptor, select.POLLIN, end - time.monotonic()):
            raise TimeoutError
        block = os.read(descriptor, min(size - len(blocks), 1 << 20))
        if not block:
            raise EOFError
        blocks += block
    return bytes(blocks)


def _ready(descriptor: int, event: int, seconds: float) -> bool:
    """Waits until a descriptor can be read or written, or was closed at the other end; False after ``seconds``. poll
    takes any descriptor, select those below 1,024 only."""
    waiting = select.poll()
    waiting.register(descriptor, event)
    return bool(waiting.poll(max(0.0, seconds) * 1000))


def _end(child: int, ends: tuple[int, int], owner: int) -> int | None:
    """Ends the child of this process, and returns its wait status; in a copy of this process only closes the pipes."""
    for descriptor in ends:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    if owner == os.getpid():
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)  # one that has ended already keeps its status
            return os.waitpid(child, 0)[1]
    return None


def _serve(function: Callable[..., str], calls: int, answers: int, seconds: float) -> NoReturn:
    """The child: answers calls until none comes for a while, or the parent hangs up. It never returns, and never runs
    what the parent would."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        # The parent's garbage stays as it is: what is collected may wait for threads, which only the parent has.
        gc.freeze()
        first, second = sorted((calls, answers))
        os.closerange(3, first)
        os.closerange(first + 1, second)
        os.closerange(second + 1, min(os.sysconf("SC_OPEN_MAX"), 1 << 20))
        _limit_memory()
        while _ready(calls, select.POLLIN, IDLE) and (head := os.read(calls, _LENGTH.size)):
            _, size = _LENGTH.unpack(head)
            request = bytearray()
            while len(request) < size:
                request += os.read(calls, size - len(request))
            arguments, named = pickle.loads(request)
            signal.alarm(int(PATIENCE * seconds) + 2)  # ends this process even if the parent is gone
            signal.setitimer(signal.ITIMER_PROF, seconds)
            kind, text = _outcome(function, arguments, named)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            data = memoryview(_LENGTH.pack(kind, len(text)) + text)
            while data:
                data = data[os.write(answers, data) :]
    finally:
        os._exit(0)


def _outcome(function: Callable[..., str], arguments: Any, named: Any) -> tuple[bytes, bytes]:
    try:
        return _SAID, function(*arguments, **named).encode("utf-8", "surrogatepass")
    except UserError as error:
        return _USER_ERROR, str(error)[:2000].encode("utf-8", "replace")
    except BaseException as error:
        return _FAILED, _told(error).encode("utf-8", "replace")


def _told(error: BaseException) -> str:
    text = str(error)[:2000]
    return text if type(error).__module__.startswith("jinja2") and text else f"{type(error).__name__}: {text}"


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, most))
