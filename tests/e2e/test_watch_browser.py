"""The growing report in a real browser: it follows the run, and the reader's place stays."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill import run_folder
from selfdistill.checkpoints.lock import locked
from selfdistill.records.runs import AnswerRecord
from selfdistill.report import live
from selfdistill.report.page_live import ReportServer
from tests.support.report_folders import answers, write_eval, write_training

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


def answer(step: int, completion: str, score: float) -> AnswerRecord:
    return AnswerRecord(
        step=step,
        id="own/1",
        prompt=[{"role": "user", "content": "Call Ann."}],
        reference="call Ann",
        completion=completion,
        num_tokens=2,
        finish_reason="stop",
        score=score,
    )


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReportServer]:
    monkeypatch.setattr(live, "REST", 0.0)
    (tmp_path / "run").mkdir()
    made = ReportServer(tmp_path / "run", 0)
    thread = threading.Thread(
        target=made.serve, args=(Console(file=io.StringIO()),), kwargs={"browser": False}, daemon=True
    )
    thread.start()
    yield made
    made.shutdown()
    thread.join(10)


@pytest.fixture
def page(browser: Any, server: ReportServer) -> Iterator[Any]:
    browser.get_log("browser")
    browser.get(server.url)
    yield browser
    browser.switch_to.default_content()
    assert browser.get_log("browser") == []


def wait(page: Any, what: Callable[[], object]) -> None:
    WebDriverWait(page, 30, 0.1).until(lambda _: what(), page.find_element(By.TAG_NAME, "body").text)


def standing(page: Any) -> str:
    return page.find_element(By.CSS_SELECTOR, "#text").text


def in_report(page: Any, script: str) -> Any:
    """What a script returns, with ``d`` the shown report's document; None while there is none."""
    frame = "document.querySelector('iframe:not(.coming)')"
    return page.execute_script(f"const d = {frame}?.contentDocument; return d ? ({script}) : null;")


def test_it_follows_a_run_and_keeps_the_readers_place(page: Any, server: ReportServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    wait(page, lambda: standing(page) == "Nothing was begun here yet.")
    with ExitStack() as stack:
        stack.enter_context(locked(folder))
        write_training(folder, num_steps=4)
        write_eval(folder / run_folder.EVAL, answers([1.0, 0.0] * 20))
        run_folder.write_jsonl(folder / run_folder.ANSWERS, [answer(0, "no", 0.0)])
        wait(page, lambda: standing(page) == "The run goes on. Step 4.")
        wait(page, lambda: in_report(page, "d.querySelectorAll('[data-drawn]').length"))
        in_report(page, "d.querySelector('#tokens details summary').click()")
        in_report(page, "d.querySelector('.samples details summary').click()")
        in_report(page, "d.querySelector('#tokens').scrollIntoView({behavior: 'instant'})")
        top = "d.querySelector('#tokens').getBoundingClientRect().top"
        before, scrolled = in_report(page, top), in_report(page, "d.documentElement.scrollTop")
        assert scrolled > 300
        # the part above grows: two more steps, and an answer beside the first
        write_training(folder, num_steps=6)
        run_folder.append_jsonl(folder / run_folder.ANSWERS, [answer(6, "call Ann", 1.0)])
        wait(page, lambda: standing(page) == "The run goes on. Step 6.")
        wait(page, lambda: "step 6" in (in_report(page, "d.body.textContent") or ""))
        assert abs(in_report(page, top) - before) < 3
        assert in_report(page, "d.querySelector('#tokens details').open") is True
        assert in_report(page, "d.querySelector('.samples details').open") is True
        assert in_report(page, "d.querySelectorAll('iframe').length") == 0
        run_folder.append_jsonl(folder / run_folder.METRICS, [{"step": 6, "train_loss": 0.1}])
    wait(page, lambda: standing(page) == "The run has ended. Step 6.")
    assert page.title == "✓ run"


def test_a_watch_that_was_ended_says_so_and_leaves_the_page(browser: Any, server: ReportServer, tmp_path: Path) -> None:
    write_training(tmp_path / "run")
    browser.get(server.url)
    wait(browser, lambda: in_report(browser, "d.title"))
    server.shutdown()
    server.server_close()
    wait(browser, lambda: "was ended" in standing(browser))
    assert in_report(browser, "d.title") is not None
    browser.get_log("browser")  # of requests that nobody answered
