"""The page in a real browser: no error, no request, no width beyond a telephone's, sorting and enlarging."""

from __future__ import annotations

import pytest
from PIL import Image

from .chromium import BROWSER, Chromium

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
SCREENS = {"light": (1280, False), "dark": (1280, True), "telephone": (390, False), "telephone-dark": (390, True)}


@pytest.fixture(scope="module")
def page(html, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(html, "utf-8")
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.mark.parametrize("screen", SCREENS)
def test_it_is_shown_whole_without_an_error_or_a_request(browser, page, tmp_path, screen):
    width, dark = SCREENS[screen]
    browser.events.clear()
    browser.show(page, width, dark)
    assert browser.complaints() == [] and browser.requests() == []
    assert browser.value("document.title") == "What <we> found", "a class's name is no script"
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    browser.screenshot(tmp_path / "page.png")
    shown = Image.open(tmp_path / "page.png").convert("L")
    paper = shown.getpixel((3, 3))
    assert shown.height > 2000 and (paper < 60 if dark else paper > 200)
    assert max(shown.histogram()) < 0.99 * shown.width * shown.height, "there is something on it"


def test_letters_of_charts_have_the_colour_of_the_page(browser, page):
    ink = {}
    for dark in (False, True):
        browser.show(page, 1280, dark)
        ink[dark] = browser.value("getComputedStyle(document.querySelector('.chart svg text')).fill")
    assert ink[False] != ink[True]


def test_a_heading_sorts_its_table(browser, page):
    browser.show(page, 1280)
    browser.value("window.one = document.querySelector('#overview table')")
    column = browser.value("[...one.tHead.rows[0].cells].findIndex(cell => cell.textContent === 'box AP')")
    orders = f"[...one.tBodies[0].rows].map(row => row.cells[{column}].dataset.order).filter(x => x).map(Number)"
    press = f"one.tHead.rows[0].cells[{column}].querySelector('button').click()"
    browser.value(press)
    down = browser.value(orders)
    assert len(down) == 3 and down == sorted(down, reverse=True)
    assert browser.value(f"one.tHead.rows[0].cells[{column}].getAttribute('aria-sort')") == "descending"
    assert browser.value(f"one.tBodies[0].rows[5].cells[{column}].textContent") == "–", "what has none comes last"
    browser.value(press)
    assert browser.value(orders) == sorted(down)


@pytest.mark.parametrize("what", ["svg", "img"])
def test_a_figure_is_enlarged_and_put_back(browser, page, what):
    browser.events.clear()
    browser.show(page, 1280)
    browser.value(f"window.one = [...document.querySelectorAll('main .zoom {what}')].at(-1)")  # not a chart that is folded away
    small = browser.value("one.getBoundingClientRect().width")
    browser.value("one.parentElement.click()")
    assert browser.value("document.getElementById('zoomed').open")
    assert browser.value(f"document.querySelector('#zoomed .shown {what}').getBoundingClientRect().width") >= small
    browser.value("document.querySelector('#zoomed .close').click()")
    assert not browser.value("document.getElementById('zoomed').open") and browser.complaints() == []
