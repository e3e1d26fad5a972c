"""The report in a real browser, opened from disk."""

from dataclasses import replace
from pathlib import Path

import pytest

from selfdistill.report.collect import collect
from selfdistill.report.write import write_files
from tests.support.report_folders import SCRIPT, checkpoints, write_comparison, write_run

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a study's page: two methods, compared, with a completion that tries to run a script."""
    folder = tmp_path_factory.mktemp("study")
    after = [1.0] * 24 + [0.0] * 6
    write_run(folder / "sdft", [0.0] * 28 + [1.0] * 2, after, "sdft", right=SCRIPT)
    write_run(folder / "sft", [0.0] * 28 + [1.0] * 2, after[::-1], "sft")
    write_comparison(folder, [replace(each, run=each.arm) for each in checkpoints()])
    return write_files(collect(folder), folder).as_uri()


@pytest.fixture
def opened(browser: webdriver.Chrome, page: str) -> webdriver.Chrome:
    """The page, its plots drawn."""
    return _open(browser, page)


def _open(browser: webdriver.Chrome, page: str) -> webdriver.Chrome:
    browser.get_log("browser")  # forgets what earlier pages said
    browser.get(page)
    drawn = "return document.querySelectorAll('[data-plot]:not([data-drawn])').length === 0"
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(drawn))
    return browser


def _all(browser: webdriver.Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def test_opens_without_a_word_on_the_console(opened: webdriver.Chrome) -> None:
    assert opened.get_log("browser") == []
    assert [word.text for word in _all(opened, ".verdict .word")] == ["BETTER", "BETTER"]


def test_asks_the_network_for_nothing(opened: webdriver.Chrome) -> None:
    assert opened.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def test_plots_are_drawn_with_marks(opened: webdriver.Chrome) -> None:
    names = [plot.get_attribute("data-plot") for plot in _all(opened, "[data-plot]")]
    assert {"scores_0", "pareto_prior", "pareto_drift", "loss", "positions"} <= set(names)
    for plot in _all(opened, "[data-plot]"):
        assert plot.find_elements(By.CSS_SELECTOR, "svg .mark-line path, svg .mark-symbol path")
    points = opened.execute_script(
        "return document.querySelectorAll('[data-plot=pareto_drift] .mark-symbol path').length"
    )
    assert points >= len(checkpoints())


def test_injected_script_stays_text(opened: webdriver.Chrome) -> None:
    assert opened.execute_script("return window.injected") is None
    assert _all(opened, "main script, main img") == []
    texts = [answer.text for answer in _all(opened, ".answer pre")]
    assert SCRIPT in texts


def _column(browser: webdriver.Chrome, table: str, column: int) -> list[float]:
    cells = f"[aria-labelledby=t-{table}] tbody tr td:nth-child({column})"
    return [float(cell.get_attribute("data-sort") or "nan") for cell in _all(browser, cells)]


def test_a_click_on_a_heading_sorts_and_a_second_turns_round(opened: webdriver.Chrome) -> None:
    (button,) = [b for b in _all(opened, "[aria-labelledby=t-checkpoints] th button") if b.text.startswith("KL")]
    column = 1 + [b.text for b in _all(opened, "[aria-labelledby=t-checkpoints] th button")].index(button.text)
    before = _column(opened, "checkpoints", column)
    button.click()
    assert _column(opened, "checkpoints", column) == sorted(before) != before
    head = button.find_element(By.XPATH, "..")
    assert head.get_attribute("aria-sort") == "ascending"
    button.click()
    assert _column(opened, "checkpoints", column) == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"


def test_a_heading_can_be_reached_and_pressed_by_keyboard(opened: webdriver.Chrome) -> None:
    body = opened.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert opened.switch_to.active_element.text == "Skip to the verdict"
    for _ in range(200):
        opened.switch_to.active_element.send_keys(Keys.TAB)
        focused = opened.switch_to.active_element
        if focused.tag_name == "button" and focused.find_elements(By.XPATH, "ancestor::th"):
            break
    outline = opened.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    head = opened.switch_to.active_element.find_element(By.XPATH, "..")
    assert head.get_attribute("aria-sort") == "ascending"


def test_filter_shows_only_what_was_asked_for(opened: webdriver.Chrome) -> None:
    radio = opened.find_element(By.CSS_SELECTOR, "input[name=status][value=all]")
    shown = [sample for sample in _all(opened, ".sample") if sample.is_displayed()]
    assert len(shown) == 12
    radio.send_keys(Keys.ARROW_RIGHT)  # fixed
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)  # broke
    shown = [sample for sample in _all(opened, ".sample") if sample.is_displayed()]
    assert [(sample.get_attribute("data-status") or "").split().count("broke") for sample in shown] == [1] * 2
    assert opened.find_element(By.CSS_SELECTOR, ".filters output").text == "2 of 2 rows"


def test_more_samples_on_demand(opened: webdriver.Chrome) -> None:
    more = opened.find_element(By.CSS_SELECTOR, ".more")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", more)
    more.click()
    more.click()
    assert all(sample.is_displayed() for sample in _all(opened, ".sample"))
    assert not more.is_displayed()


@pytest.mark.parametrize("width", [390, 320])
def test_fits_a_phone(browser: webdriver.Chrome, page: str, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        _open(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") == width
        widths = browser.execute_script("return [...document.querySelectorAll('.plot svg')].map(s => s.clientWidth)")
        assert max(widths) <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def _colours(browser: webdriver.Chrome) -> tuple[str, str]:
    script = """return [getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector('[data-plot=loss] .role-axis-label text')).fill]"""
    back, label = browser.execute_script(script)
    return back, label


def test_dark_where_the_system_is(opened: webdriver.Chrome) -> None:
    light = _colours(opened)
    dark_scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", dark_scheme)
    try:
        dark = _colours(opened)
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light == ("rgb(251, 250, 248)", "rgb(95, 99, 107)")
    assert dark == ("rgb(20, 22, 25)", "rgb(160, 164, 172)")


def test_large_page_is_visible_within_a_second(browser: webdriver.Chrome, tmp_path: Path) -> None:
    long = "The tool that fits is to call Ann, who is in the list of people. " * 20
    for method in ("sdft", "sft", "dft", "cpt"):
        write_run(tmp_path / method, [0.0] * 200, [1.0] * 200, method, right=f"{method} {long}", wrong=long)
    address = write_files(collect(tmp_path), tmp_path).as_uri()
    script = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
    times = (_open(browser, address).execute_script(script) for _ in range(10))
    assert any(time < 1000 for time in times)  # once is enough: other programs may hold the processor
    assert browser.get_log("browser") == []
