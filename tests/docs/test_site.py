"""The documents are built as a site, strictly; every link in it leads somewhere, and a page asks no other server."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from tests.records.test_round_trip import RECORDS

ROOT = Path(__file__).parents[2]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
"""Tags whose content a browser fetches by itself, and the attribute that says from where."""


class Tag(NamedTuple):
    name: str
    attributes: dict[str, str]


class Page(HTMLParser):
    """The tags of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[Tag] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(Tag(tag, {name: value or "" for name, value in attrs}))

    @property
    def anchors(self) -> set[str]:
        return {value for tag in self.tags for name in ("id", "name") if (value := tag.attributes.get(name))}

    def addresses(self) -> Iterator[str]:
        for tag in self.tags:
            yield from (tag.attributes[name] for name in ("href", "src") if tag.attributes.get(name))


Site = dict[str, Page]
"""Pages by file name, relative to the site."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def site(built: Path) -> Site:
    return {path.relative_to(built).as_posix(): Page(path) for path in built.rglob("*.html")}


def is_elsewhere(address: str) -> bool:
    return bool(urlsplit(address).netloc) or address.startswith("mailto:")


def dead(site: Site, folder: Path) -> Iterator[str]:
    """Addresses within the site that lead to no file, or to no place in a page."""
    for name, page in site.items():
        for address in page.addresses():
            path, anchor = unquote(urlsplit(address).path), unquote(urlsplit(address).fragment)
            if is_elsewhere(address) or address.startswith("data:"):
                continue
            if name == "404.html":  # shown in the place of any page, so its addresses begin at the site's root
                path = path.removeprefix("/")
            target = (page.path.parent / path).resolve() if path else page.path
            target = target / "index.html" if target.is_dir() else target
            other = site.get(target.relative_to(folder.resolve()).as_posix()) if target.is_file() else None
            if not target.is_file() or (anchor and other and anchor not in other.anchors | {"__top"}):
                yield f"{name}: {address}"


def test_every_link_leads_to_a_page_and_a_place_in_it(site: Site, built: Path) -> None:
    assert sum(len(list(page.addresses())) for page in site.values()) > 1000
    assert list(dead(site, built)) == []


def test_a_dead_link_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<p id="x"><a href="b.html">b</a> <a href="#x">x</a> <a href="a.html#y">y</a>')
    assert list(dead({"a.html": Page(tmp_path / "a.html")}, tmp_path)) == ["a.html: b.html", "a.html: a.html#y"]


def test_a_page_fetches_nothing_from_another_server(site: Site, built: Path) -> None:
    for name, page in site.items():
        fetched = [tag.attributes.get(FETCHED[tag.name], "") for tag in page.tags if tag.name in FETCHED]
        assert [address for address in fetched if is_elsewhere(address)] == [], name
    for path in built.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", path.read_text(encoding="utf-8"))
        assert addresses == [], path.name


def test_every_page_of_the_documents_is_in_the_site(site: Site) -> None:
    pages = {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md") if path.stem != "README"}
    assert pages | {"index.html", "about.html", "contributing.html", "changelog.html"} <= set(site)


def test_every_name_that_the_python_page_gives_is_described(site: Site) -> None:
    for page in ("api", "schemas"):
        named = re.findall(r"^::: (\S+)$", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert named
        assert set(named) <= site[f"{page}.html"].anchors


def test_every_record_and_every_setting_is_described(site: Site) -> None:
    from selfdistill.settings.method import MethodConfig

    assert {f"{kind.__module__}.{kind.__name__}" for kind in RECORDS} <= site["schemas.html"].anchors
    settings = {
        f"{group.__module__}.{group.__name__}.{name}"
        for group in MethodConfig.__mro__[:-1]
        for name in vars(group).get("__annotations__", {})
    }
    assert settings <= site["api.html"].anchors


def test_a_bar_in_code_within_a_table_has_no_backslash(built: Path) -> None:
    text = (built / "models.html").read_text(encoding="utf-8")
    assert "&lt;|im_end|&gt;" in text
    assert "\\|" not in text


def test_what_belongs_to_a_numbered_item_stays_in_it(built: Path) -> None:
    text = (built / "method.html").read_text(encoding="utf-8")
    before, _, after = text.partition("<strong>Diverge.</strong>")
    assert before.rindex("<ol") > before.rfind("</ol>")
    assert after.index("<table>") < after.index("<strong>Average.</strong>") < after.index("</ol>")
    assert re.search(r"<li>\s*<p><strong>Average\.</strong>", after)
    for path in built.rglob("*.html"):
        assert not re.search(r"\s\d+\. <strong>", path.read_text(encoding="utf-8")), path.name
