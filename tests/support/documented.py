"""Commands that documents and messages show: where they stand, and their words as a shell reads them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md")))
NOTEBOOKS = tuple(sorted((ROOT / "examples").glob("*.ipynb")))
PROGRAMS = ("selfdistill", "python", "torchrun", "accelerate", "make", "pip", "vllm", "ollama", "pytest")
SHELL = ("", "bash", "sh", "console")
"""Languages of fenced blocks that hold commands."""
VARIABLE = re.compile(r"[A-Z_]+=\S*")


class Shown(NamedTuple):
    """A command as a person sees it."""

    place: str
    """File and line."""
    words: tuple[str, ...]
    """As a shell splits them, without variables before the program and without a comment."""
    in_block: bool
    """Whether it stands in a block of its own, to be copied, rather than within a sentence."""

    @property
    def text(self) -> str:
        return " ".join(self.words)


def commands_of(path: Path) -> list[Shown]:
    """The commands of a page, in order: those of blocks, then those within sentences."""
    text, place = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    blocks = (command(f"{place}:{number}", line, in_block=True) for number, line in block_lines(text))
    inline = (command(place, span, in_block=False) for span in spans(text))
    return [each for each in (*blocks, *inline) if each is not None]


def command(place: str, text: str, *, in_block: bool) -> Shown | None:
    """The command in a line or a span; None if it is none, or only names a program."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # an apostrophe in a sentence
        return None
    while words and VARIABLE.fullmatch(words[0]):
        words.pop(0)
    if len(words) < 2 or words[0] not in PROGRAMS:
        return None
    return Shown(place, tuple(words), in_block)


def block_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines of fenced blocks without a language or in a shell's, and of indented blocks, with their numbers. A line
    that goes on in the next one is one line."""
    fence: str | None = None
    begun = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fence = line.strip().strip("`") if fence is None else None
        elif begun or (fence in SHELL if fence is not None else line.startswith("    ")):
            begun += line.strip()
            if begun.endswith("\\"):
                begun = begun.removesuffix("\\") + " "
                continue
            yield number, begun
            begun = ""


def spans(text: str) -> list[str]:
    """What stands in single backticks outside fenced blocks."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", outside)]
