"""What turns the documents into the site: pages from outside ``docs/``, and GitHub's dialect of Markdown.

``mkdocs.yml`` names this file as a hook; the text of every page stands once, where GitHub shows it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {
    "README.md": "about.md",
    "CONTRIBUTING.md": "contributing.md",
    "AGENTS.md": "rules.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages from the root of the repository, and what they are called in the site."""
NOTEBOOKS = "examples/*.ipynb"
"""Files outside ``docs/`` that pages link to and the site holds."""
LINK = re.compile(r"\[([^\]\[]*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and files from outside ``docs/``."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for path in sorted(ROOT.glob(NOTEBOOKS)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text with links as they are in the site, and in the dialect of Python-Markdown."""
    folder = ROOT if page.file.src_uri in PAGES.values() else DOCS
    written: list[str] = []
    for line, outside in lines(linked(markdown, folder)):
        if outside and re.match(r"\d+\. ", line) and written and re.match(r" {4}\S", written[-1]):
            written.append("")  # otherwise it goes on with the last paragraph of the item before
        written.append(dialect(line) if outside else line)
    return "\n".join(written)


def linked(markdown: str, folder: Path) -> str:
    """The text with each link to a file of the repository leading to its place in the site, or, if it has none, with
    the link's words alone. ``folder`` holds the page."""

    def replaced(link: re.Match[str]) -> str:
        words, target = link.groups()
        path, mark, anchor = target.partition("#")
        if not path or not (folder / path).exists():
            return link.group()
        place = place_of((folder / path).resolve())
        return words if place is None else f"[{words}]({place}{mark}{anchor})"

    return LINK.sub(replaced, markdown)


def place_of(path: Path) -> str | None:
    """Where a file of the repository is in the site; None if it is not there."""
    if path.parent == DOCS and path.suffix == ".md":
        return path.name
    name = path.relative_to(ROOT).as_posix()
    return PAGES.get(name) or (name if path in ROOT.glob(NOTEBOOKS) else None)


def lines(markdown: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is outside fences of code."""
    fenced = False
    for line in markdown.split("\n"):
        fence = line.lstrip().startswith("```")
        yield line, not fenced and not fence
        fenced ^= fence


def dialect(line: str) -> str:
    """A line of text as Python-Markdown reads it: what belongs to an item of a numbered list is indented by four
    spaces, and a bar in code within a table is a bar without a backslash before it."""
    if re.match(r" {3}\S", line):
        line = f" {line}"
    if line.lstrip().startswith("|"):
        line = re.sub(r"`[^`]*`", lambda code: code.group().replace("\\|", "|"), line)
    return line
