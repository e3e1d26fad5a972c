"""The chat's page in a real browser."""

import io
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from selfdistill.chat.columns import Answer, Updates
from selfdistill.chat.web import ChatServer
from selfdistill.errors import UserError
from tests.support.chat_fakes import FakeChat

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

SCRIPT = "<script>window.injected = 1</script> <img src=x onerror='window.injected = 1'>"


class Held(FakeChat):
    """Says one word, then waits until it is let go on."""

    def __init__(self) -> None:
        super().__init__(["A", "B"], ["", ""])
        self.go_on = threading.Event()

    def _updates(self) -> Updates:
        read = 0
        try:
            for column in (0, 1):
                read += 1
                yield column, Answer(text="first", num_tokens=1)
            while not self.go_on.wait(0.05):
                read += 1
                yield 0, Answer(text="first", num_tokens=1)
        finally:
            self.closed_after.append(read)


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    made = ChatServer(0)
    chat = FakeChat(["runs/<b>a</b>", "runs/b"], ["", ""])
    thread = threading.Thread(target=made.serve, args=(chat, None, Console(file=io.StringIO())))
    thread.start()
    yield made
    made.shutdown()
    thread.join(10)


@pytest.fixture
def page(browser: Any, server: ChatServer) -> Any:
    server.chat = FakeChat(["A", "B"], [f"Hello {SCRIPT}", "Good day\nto you"])
    browser.get_log("browser")
    browser.get(f"http://127.0.0.1:{server.server_port}{server.path}")
    yield browser
    assert browser.get_log("browser") == []


def type_in(page: Any, *keys: str) -> None:
    page.find_element(By.ID, "prompt").send_keys(*keys)


def texts(page: Any, selector: str) -> list[str]:
    return [element.text for element in page.find_elements(By.CSS_SELECTOR, selector)]


def wait_for(page: Any, selector: str, expected: list[str]) -> None:
    WebDriverWait(page, 10, 0.05).until(lambda _: texts(page, selector) == expected, f"{texts(page, selector)}")


def test_both_columns_fill_and_markup_stays_text(page: Any) -> None:
    type_in(page, "Hi <b>you</b>", Keys.ENTER)
    wait_for(page, ".answer .text", [f"Hello {SCRIPT}", "Good day\nto you"])
    assert texts(page, ".prompt") == ["Hi <b>you</b>"]
    assert texts(page, ".answer h2") == ["runs/<b>a</b>", "runs/b"]
    assert page.execute_script("return window.injected") is None
    assert page.find_elements(By.CSS_SELECTOR, "main script, main img, main b") == []
    left, right = page.find_elements(By.CSS_SELECTOR, ".answer")
    assert left.rect["y"] == right.rect["y"]
    assert left.rect["x"] + left.rect["width"] < right.rect["x"]


def test_asks_no_other_host(page: Any) -> None:
    type_in(page, "Hi", Keys.ENTER)
    wait_for(page, "#status", ["Enter sends, Shift+Enter begins a new line."])
    names = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    address = page.execute_script("return location.href")
    assert names == [f"{address}chat"]


def test_what_was_said_goes_along_until_a_new_conversation(page: Any, server: Any) -> None:
    page.find_element(By.TAG_NAME, "summary").click()
    page.find_element(By.ID, "system").send_keys("Rhyme.")
    type_in(page, "one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "more", Keys.ENTER)
    wait_for(page, "#status", ["Enter sends, Shift+Enter begins a new line."])
    type_in(page, "two", Keys.ENTER)
    WebDriverWait(page, 10).until(lambda _: len(server.chat.heard) == 2)
    said = [message["content"] for message in server.chat.heard[1][1]]
    assert said == ["Rhyme.", "one\nmore", "Good day\nto you", "two"]
    wait_for(page, "#status", ["Enter sends, Shift+Enter begins a new line."])
    page.find_element(By.ID, "reset").click()
    assert texts(page, ".turn") == []
    type_in(page, "three", Keys.ENTER)
    WebDriverWait(page, 10).until(lambda _: len(server.chat.heard) == 3)
    assert [message["content"] for message in server.chat.heard[2][0]] == ["Rhyme.", "three"]


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stopping_keeps_what_is_there_and_stops_the_model(page: Any, server: Any, how: str) -> None:
    server.chat = held = Held()
    type_in(page, "go", Keys.ENTER)
    wait_for(page, ".answer .text", ["first", "first"])
    assert page.find_element(By.ID, "stop").is_displayed()
    if how == "button":
        page.find_element(By.ID, "stop").click()
    else:
        type_in(page, Keys.ESCAPE)
    wait_for(page, ".note", ["1 token, stopped"] * 2)
    WebDriverWait(page, 10).until(lambda _: held.closed_after)
    assert page.find_element(By.ID, "send").is_displayed()
    server.chat = FakeChat(["A", "B"], ["yes", "no"])
    type_in(page, "on", Keys.ENTER)
    wait_for(page, ".answer .text", ["first", "first", "yes", "no"])
    assert [message["content"] for message in server.chat.heard[0][0]] == ["go", "first", "on"]


@pytest.mark.parametrize("width", [390, 320])
def test_fits_a_phone_with_the_columns_below_each_other(page: Any, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.refresh()
        type_in(page, "x" * 200, Keys.ENTER)
        wait_for(page, "#status", ["Enter sends, Shift+Enter begins a new line."])
        assert page.execute_script("return document.documentElement.scrollWidth") == width
        first, second = page.find_elements(By.CSS_SELECTOR, ".answer")
        assert first.rect["y"] + first.rect["height"] < second.rect["y"]
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_where_the_system_is(page: Any) -> None:
    script = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(script)
    dark_scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", dark_scheme)
    try:
        dark = page.execute_script(script)
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert (light, dark) == ("rgb(251, 250, 248)", "rgb(20, 22, 25)")


def test_what_the_user_can_mend_is_said_and_the_question_comes_back(
    page: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(conversations: Any) -> Updates:
        raise UserError("The conversation has 9 tokens.")

    monkeypatch.setattr(server.chat, "answer", refuse)
    type_in(page, "Hi", Keys.ENTER)
    wait_for(page, "#status", ["The conversation has 9 tokens."])
    assert page.find_element(By.ID, "prompt").get_attribute("value") == "Hi"
    assert texts(page, ".turn") == []
