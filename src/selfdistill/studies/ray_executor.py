"""``--executor ray``: a study's jobs are tasks of a Ray cluster. Ray decides where and when each runs, and starts one
whose worker was lost anew; this process follows them, and puts what comes back into the study's folder.
"""

import logging
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from selfdistill.errors import UserError, brief
from selfdistill.settings.study import ExecutionOptions
from selfdistill.studies.followed import Board, Followed, Line

if TYPE_CHECKING:
    from selfdistill.studies.elsewhere import Made
    from selfdistill.studies.work import Executor

RETRIES = 3
"""Times that Ray starts a job anew after its worker was lost."""
STORE = 100 * 2**20
"""Bytes of the object store of a cluster that is started here, through which only orders and records pass."""
PATIENCE = 10.0
"""Most seconds that jobs which are cancelled have to end."""


def chosen_executor(options: ExecutionOptions, console: Console, on_cpu: Callable[[], bool]) -> "Executor | None":
    """The executor that the options name; None for this process.

    Args:
        options: checked already.
        console: for messages.
        on_cpu: whether no job needs a GPU.
    """
    return RayExecutor(options, console, on_cpu=on_cpu()) if options.executor == "ray" else None


def needs(resources: Mapping[str, float], cpus: int, *, on_cpu: bool) -> dict[str, int]:
    """What Ray sets aside for a job: cores, and one GPU if the cluster has any.

    Args:
        resources: those of the cluster, as Ray names them.
        cpus: cores of a job.
        on_cpu: whether no job needs a GPU.
    """
    return {"num_cpus": cpus, "num_gpus": int(resources.get("GPU", 0) >= 1 and not on_cpu)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A job that could not be made, in words, since not every error can be pickled."""

    why: str
    trace: str
    """Where it was raised; empty for a user's mistake."""


class RayExecutor:
    """Makes jobs as tasks of a Ray cluster; see ``Executor``. As a context it is connected to the cluster.

    Args:
        options: checked already.
        console: for messages.
        on_cpu: whether no job needs a GPU.

    Raises:
        UserError: on entry: no cluster answers.
    """

    def __init__(self, options: ExecutionOptions, console: Console, *, on_cpu: bool) -> None:
        self._options, self._console, self._on_cpu = options, console, on_cpu
        self._ray: Any = None
        self._board: Any = None
        self._needs: dict[str, int] = {}
        self._followed = Followed(console)
        self._refs: dict[str, Any] = {}
        self._folders: dict[str, Path] = {}

    def __enter__(self) -> "RayExecutor":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers unless it was asked for
        address = self._options.ray_address or os.environ.get("RAY_ADDRESS") or "local"
        own = {"include_dashboard": False, "object_store_memory": STORE} if address == "local" else {}
        self._ray = import_module("ray")
        try:
            _knock(address)
            with _own_sigterm():
                self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (OSError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise UserError(
                f"No Ray cluster answers at {address} ({brief(error, 12)}). Give --ray_address HOST:PORT, or neither "
                "it nor RAY_ADDRESS for a cluster of this machine alone."
            ) from error
        resources: dict[str, float] = self._ray.cluster_resources()
        has = f"{resources.get('CPU', 0):g} CPU cores and {resources.get('GPU', 0):g} GPUs"
        self._needs = needs(resources, self._options.ray_cpus, on_cpu=self._on_cpu)
        self._console.print(
            f"Ray {'on this machine' if own else f'at {escape(address)}'}: {has}; each run has "
            f"{self._needs['num_cpus']} and {self._needs['num_gpus']}."
        )
        here = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=True
        )
        self._board = self._ray.remote(Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
        self._followed.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._read()
        self._followed.stop()
        with _own_sigterm():
            self._ray.shutdown()

    def begin(self, name: str, title: str, order: Callable[..., Any], folder: Path) -> None:
        """Submits a job; see ``Executor``."""
        self._followed.begin(name, title)
        self._folders[name] = folder
        task = self._ray.remote(_made).options(name=title, max_retries=RETRIES, **self._needs)
        self._refs[name] = task.remote(pickle.dumps(order), name, str(folder), os.getcwd(), self._board)

    def ended(self, seconds: float) -> list[str]:
        """Names of jobs that have ended; see ``Executor``."""
        ready, _ = self._ray.wait(list(self._refs.values()), timeout=seconds)
        self._read()
        return [name for name, ref in self._refs.items() if ref in ready]

    def result(self, name: str) -> Any:
        """The record of a job that has ended; see ``Executor``."""
        try:
            made: Made | Failed = self._ray.get(self._refs.pop(name))
        except self._ray.exceptions.RayError as error:
            self._followed.end(name, "lost")
            raise UserError(
                f"Ray could not have it made ({type(error).__name__}: {brief(error, 12)}). Its logs may say why, such "
                "as full memory; then give the same command again."
            ) from error
        self._read()
        if isinstance(made, Failed):
            self._followed.end(name, "failed")
            if made.trace:
                self._console.print(escape(made.trace))
            raise UserError(made.why)
        made.put(self._folders.pop(name))
        self._followed.end(name, "done")
        return made.record

    def cancel(self) -> None:
        """Ends all jobs; see ``Executor``."""
        left = list(self._refs.values())
        self._refs.clear()
        for ref in left:
            self._ray.cancel(ref, force=True)
        self._ray.wait(left, num_returns=len(left), timeout=PATIENCE)

    def _read(self) -> None:
        """Takes over what the jobs have told."""
        try:
            lines: list[Line] = self._ray.get(self._board.read.remote(), timeout=PATIENCE)
        except self._ray.exceptions.RayError:  # it is started anew, without them
            lines = []
        self._followed.say(lines)


def _made(order: bytes, name: str, folder: str, directory: str, board: Any) -> "Made | Failed":
    """Makes a job, in a worker of the cluster.

    Args:
        order: a pickled ``Order``; what it needs is loaded once it has been told who is at work.
        name: the job's.
        folder: the folder of its work, as the study's process has it.
        directory: the working directory of the study's process, which names of files may be relative to.
        board: an actor ``Board``.
    """
    who = f"process {os.getpid()} on {socket.gethostname()}"

    def tell(text: str) -> None:
        board.say.remote(Line(name=name, who=who, text=text))

    tell("")
    if Path(directory).is_dir():
        os.chdir(directory)
    try:
        from selfdistill.models.loading import quiet_libraries  # loads torch
        from selfdistill.studies.elsewhere import make

        quiet_libraries()
        return make(pickle.loads(order), Path(folder), tell)
    except UserError as error:
        return Failed(why=str(error), trace="")
    except Exception as error:
        return Failed(why=f"{type(error).__name__}: {error}", trace=traceback.format_exc())


def _knock(address: str) -> None:
    """Raises OSError if nobody listens at an address that is HOST:PORT. Ray itself would wait for many minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


@contextmanager
def _own_sigterm() -> Generator[None]:
    """Context after which SIGTERM does what it did before; Ray has it end the process."""
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
