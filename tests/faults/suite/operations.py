"""Watches what a process does to the files below a folder, to count, fail or record it.

Reading is not watched, nor what compiled code writes by itself (a tokenizer's file), but for safetensors' files, whose
one call is watched as a whole.
"""

import builtins
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAKE = ("mkdir",)
MOVE = ("replace", "rename")
DELETE = ("unlink", "rmdir")
SYNC = ("fsync",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is about to be done."""

    name: str
    """That of the function in ``os``; or create, open, write, serialize, which change a file."""
    path: str
    """Relative to the folder that is watched; ``.`` is that folder."""
    target: str | None = None
    """The new path, where something is renamed."""
    tear: Callable[[], None] = lambda: None
    """Does half of a write."""


def _nothing(operation: Operation) -> None:
    pass


class Watch:
    """Calls ``before`` ahead of each operation in ``folder``, and ``after`` once it has succeeded.

    ``start`` changes ``os``, ``open`` and safetensors for good, so it belongs into a forked process.
    """

    def __init__(
        self,
        folder: Path,
        before: Callable[[Operation], None] = _nothing,
        after: Callable[[Operation], None] = _nothing,
    ) -> None:
        self._folder = str(folder.resolve())
        self._before, self._after = before, after

    def start(self) -> None:
        """Begins to watch."""
        import safetensors.torch

        for name in (*MAKE, *DELETE):
            setattr(os, name, self._on_path(name, getattr(os, name)))
        for name in MOVE:
            setattr(os, name, self._on_paths(name, getattr(os, name)))
        os.fsync = self._on_descriptor(os.fsync)
        os.open = self._creating(os.open)
        builtins.open = io.open = self._opening(open)
        safetensors.torch.serialize_file = self._serializing(safetensors.torch.serialize_file)

    def _within(self, path: Any, folder: int | None = None) -> str | None:
        """The path relative to the folder that is watched; None if it lies elsewhere."""
        if isinstance(path, int):
            full = os.readlink(f"/proc/self/fd/{path}")
        else:
            beginning = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
            full = os.path.normpath(os.path.join(beginning, os.fsdecode(path)))
        if full == self._folder:
            return "."
        return os.path.relpath(full, self._folder) if full.startswith(f"{self._folder}/") else None

    def _do(self, operation: Operation, real: Callable[[], Any]) -> Any:
        self._before(operation)
        result = real()
        self._after(operation)
        return result

    def _on_path(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(path: Any, *arguments: Any, dir_fd: int | None = None, **options: Any) -> Any:
            found = self._within(path, dir_fd)
            if dir_fd is not None:
                options["dir_fd"] = dir_fd
            if found is None:
                return real(path, *arguments, **options)
            return self._do(Operation(name=name, path=found), lambda: real(path, *arguments, **options))

        return operation

    def _on_paths(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(source: Any, target: Any, **options: Any) -> Any:
            old, new = self._within(source), self._within(target)
            if old is None:
                return real(source, target, **options)
            return self._do(Operation(name=name, path=old, target=new), lambda: real(source, target, **options))

        return operation

    def _on_descriptor(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(descriptor: Any) -> Any:
            found = self._within(descriptor if isinstance(descriptor, int) else descriptor.fileno())
            if found is None:
                return real(descriptor)
            return self._do(Operation(name="fsync", path=found), lambda: real(descriptor))

        return operation

    def _creating(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(path: Any, flags: int, *arguments: Any, dir_fd: int | None = None, **options: Any) -> Any:
            if dir_fd is not None:
                options["dir_fd"] = dir_fd
            found = self._within(path, dir_fd) if flags & os.O_CREAT else None
            if found is None:
                return real(path, flags, *arguments, **options)
            return self._do(Operation(name="create", path=found), lambda: real(path, flags, *arguments, **options))

        return operation

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            found = self._within(file) if set(mode) & set("wax+") else None
            if found is None:
                return real(file, mode, *arguments, **options)
            opened = self._do(Operation(name="open", path=found), lambda: real(file, mode, *arguments, **options))
            opened.write = self._writing(opened, found)
            return opened

        return operation

    def _writing(self, file: Any, path: str) -> Callable[..., Any]:
        real = file.write

        def operation(data: Any) -> Any:
            def tear() -> None:
                real(data[: len(data) // 2])
                file.flush()

            return self._do(Operation(name="write", path=path, tear=tear), lambda: real(data))

        return operation

    def _serializing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(data: Any, filename: Any, *arguments: Any, **options: Any) -> Any:
            def tear() -> None:
                real(data, filename, *arguments, **options)
                os.truncate(filename, os.stat(filename).st_size // 2)

            found = self._within(filename)
            if found is None:
                return real(data, filename, *arguments, **options)
            done = Operation(name="serialize", path=found, tear=tear)
            return self._do(done, lambda: real(data, filename, *arguments, **options))

        return operation
