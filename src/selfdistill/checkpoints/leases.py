"""Leases: of several processes in a folder, on one machine or many, one has what a name stands for.

A lease is a file ``<name>.<number>`` that only one process can create; the one with the highest number counts. Nobody
takes a lease from a living owner. Of a dead owner (see ``owners``) it is taken by creating the next number, which again
only one can. So an owner that was taken for dead, and wakes, can always see that it has lost the lease.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from selfdistill import run_folder
from selfdistill.checkpoints.owners import Owner, Owners
from selfdistill.run_folder import FORMAT


class LostLeaseError(Exception):
    """Another process has taken a lease over, or has done what it was for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The file of a lease."""

    owner: str
    """Id of the process; empty if the file can't be read, as when it is just being written."""
    token: str
    """Another one for every lease that a process takes."""
    held: bool = True
    """False once the process has given it back."""
    failures: int = 0
    """How many processes have failed at what it is for."""
    why: str = ""
    """What the last of them said."""
    format: int = FORMAT


class Leases:
    """The leases in a folder.

    Args:
        folder: it is there.
        owners: the processes that take leases in it, this one among them.
    """

    def __init__(self, folder: Path, owners: Owners) -> None:
        self._folder, self._owners = folder, owners
        self._taken = 0

    def take(self, name: str) -> "Lease | None":
        """Takes a lease; None if another process has it.

        Args:
            name: what it is for; it may name a folder, with ``/`` between its parts.

        Raises:
            OSError: the folder can't be written.
        """
        number, before = self._newest(name)
        if before is not None and before.held and not self._is_free(name, number, before):
            return None
        self._taken += 1
        token = f"{self._owners.me.id}-{self._taken}"
        claim = Claim(owner=self._owners.me.id, token=token)
        if before is not None:
            claim = replace(claim, failures=before.failures, why=before.why)
        path = self._path(name, number + 1)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(run_folder.json_text(claim))
        *earlier, newest = self._numbers(name)
        if newest != number + 1:  # this one was looked for, and others came and went meanwhile
            path.unlink(missing_ok=True)
            return None
        for old in earlier:
            self._path(name, old).unlink(missing_ok=True)
        return Lease(self, name, number + 1, claim, before if before is not None and before.held else None)

    def find(self, name: str) -> Claim | None:
        """The claim that counts; None if there is none."""
        return self._newest(name)[1]

    def holder(self, name: str) -> Owner | None:
        """The living process, other than this one, that has a lease; None if nobody has, or it is not known who."""
        claim = self.find(name)
        if claim is None or not claim.held or self._owners.is_dead(claim.owner):
            return None
        return self._owners.find(claim.owner) if claim.owner != self._owners.me.id else None

    def forget(self, but: str) -> None:
        """Deletes all leases but that of the name ``but``. No other process may have any."""
        kept = {self._path(but, number) for number in self._numbers(but)}
        for path in [path for path in self._folder.iterdir() if path.is_file() and path not in kept]:
            path.unlink(missing_ok=True)

    def is_newest(self, name: str, number: int, token: str) -> bool:
        """Whether the claim of a number counts, and is that with ``token``."""
        newest, claim = self._newest(name)
        return newest == number and claim is not None and claim.token == token

    def write(self, name: str, number: int, claim: Claim) -> None:
        """Replaces the claim of a number. Only its owner may."""
        path = self._path(name, number)
        new = path.with_name(f"{path.name}.{claim.token}")
        new.write_text(run_folder.json_text(claim), encoding="utf-8")
        os.replace(new, path)

    def _newest(self, name: str) -> tuple[int, Claim | None]:
        numbers = self._numbers(name)
        if not numbers:
            return 0, None
        try:
            text = self._path(name, numbers[-1]).read_text(encoding="utf-8")
            return numbers[-1], run_folder.as_record(json.loads(text), Claim)
        except (OSError, ValueError):
            return numbers[-1], Claim(owner="", token="")

    def _is_free(self, name: str, number: int, claim: Claim) -> bool:
        """Whether the owner of a claim is dead."""
        if claim.owner:
            return self._owners.is_dead(claim.owner)
        return self._owners.is_still(f"{name}.{number}", "")

    def _numbers(self, name: str) -> list[int]:
        """Numbers of a name's files, rising."""
        start = f"{_in_a_name(name)}."
        ends = (name.removeprefix(start) for name in os.listdir(self._folder) if name.startswith(start))
        return sorted(int(end) for end in ends if end.isascii() and end.isdecimal())

    def _path(self, name: str, number: int) -> Path:
        return self._folder / f"{_in_a_name(name)}.{number}"


class Lease:
    """A lease that this process took.

    Args:
        leases: where.
        name: what it is for.
        number: of its file.
        claim: what the file says.
        of_dead: the claim of a dead process that had it before; None if nobody had it.
    """

    def __init__(self, leases: Leases, name: str, number: int, claim: Claim, of_dead: Claim | None) -> None:
        self._leases, self._name, self._number, self._claim = leases, name, number, claim
        self.token, self.of_dead = claim.token, of_dead

    def is_held(self) -> bool:
        """False if another process has taken it over, or the folder is gone."""
        try:
            return self._leases.is_newest(self._name, self._number, self.token)
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Raises LostLeaseError if the lease is not held any more."""
        if not self.is_held():
            raise LostLeaseError(self._name)

    def release(self, failed: str = "") -> None:
        """Gives the lease back, if it is still held.

        Args:
            failed: what went wrong, if what it is for could not be done.
        """
        if not self.is_held():
            return
        claim = replace(self._claim, held=False)
        if failed:
            claim = replace(claim, failures=claim.failures + 1, why=failed)
        self._leases.write(self._name, self._number, claim)


def _in_a_name(name: str) -> str:
    return name.replace("/", "~")
