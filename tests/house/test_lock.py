"""The lock: every package of a developer's environment, in the versions of constraints.txt, with hashes."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
TOOLS = {"build", "pip-audit", "uv"}
"""Programs that a target of the Makefile installs into an environment of its own."""


def pins(text: str) -> dict[str, set[str]]:
    """By package the versions that lines such as ``name==1.0`` give; one with markers may have several."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for, in its extras too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for lines in (project["dependencies"], *extras) for line in lines]


def test_the_lock_has_the_versions_of_the_constraints() -> None:
    ours, locked = pins((ROOT / "constraints.txt").read_text(encoding="utf-8")), pins(LOCK)
    assert {name for name in ours if name not in locked} == TOOLS
    assert {name: locked[name] for name in ours if name in locked} == {n: v for n, v in ours.items() if n not in TOOLS}


def test_the_lock_has_everything_that_the_project_asks_for() -> None:
    locked = pins(LOCK)
    for need in wanted():
        versions = locked[canonicalize_name(need.name)]
        assert all(need.specifier.contains(version) for version in versions), (str(need), versions)


def test_every_package_has_a_hash() -> None:
    whole = LOCK.replace("\\\n", " ")
    lines = [line for line in whole.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if not re.search(r"^[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_the_lock_names_no_index() -> None:
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", LOCK)
