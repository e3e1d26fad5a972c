"""Builders: they write the data of tasks that don't come ready-made.

To add one, add a file with a function of type ``Build``, a line here, and its options to ``settings.build``.
"""

from selfdistill.tasks.build import medical, wiki
from selfdistill.tasks.build.rows import Build

BUILDERS: dict[str, Build] = {"medical": medical.build, "wiki": wiki.build}
"""By name of the task."""
