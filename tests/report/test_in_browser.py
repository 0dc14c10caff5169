"""The page in a browser: plots drawn, tables sorted and filtered, names shown as text, keyboard and screen reader served."""

from __future__ import annotations

import itertools

import pytest

from longtail.evaluation.predictions import read
from longtail.report.run_report import write_report


@pytest.fixture(scope="module")
def report(odd_run, tmp_path_factory):
    return write_report(odd_run.path, tmp_path_factory.mktemp("page") / "report.html")


def column(page, number):
    return [row.locator("th, td").nth(number).inner_text() for row in page.locator("#table-classes tbody tr").all()]


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_drawn_and_nothing_sticks_out(browser, report, width, scheme):
    with browser(report, width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for canvas in page.locator(".canvas").all():
            assert canvas.locator("svg.main-svg").count() > 0
            box = canvas.locator("svg.main-svg").first.bounding_box()
            assert box["width"] > 200
            assert box["height"] > 200
        assert page.locator("#plot-accuracy .point").count() == 10
        assert page.locator("#plot-confusion .heatmaplayer image").count() == 1
        shown = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, shown[4:-1].split(","))) > 380) == (scheme == "light")


def test_names_are_shown_and_not_run(browser, report, odd_run):
    with browser(report) as page:
        assert sorted(column(page, 0)) == sorted(read(odd_run.path).classes.names)
        assert page.evaluate("window.harm") is None
        ticks = page.locator("#plot-frequency .xtick text").all_text_contents()
        assert "a & b <i>x</i>" in ticks
        assert any(tick.startswith("<script>") for tick in ticks)


def test_the_table_sorts(browser, report):
    with browser(report) as page:
        head = page.locator("#table-classes thead th")
        accuracy = head.nth(1)
        for direction in ("descending", "ascending"):
            accuracy.locator("button").click()
            assert accuracy.get_attribute("aria-sort") == direction
            values = [float(value) for value in column(page, 1)]
            assert values == sorted(values, reverse=direction == "descending")
        head.nth(0).locator("button").press("Enter")
        assert head.nth(0).get_attribute("aria-sort") == "ascending"
        assert accuracy.get_attribute("aria-sort") is None


def test_the_table_filters(browser, report):
    with browser(report) as page:
        filtered = page.get_by_label("Filter")
        filtered.fill("SCRIPT>window")
        for name, taken_for in zip(column(page, 0), column(page, 8), strict=True):
            assert "<script>window" in name + taken_for
        filtered.fill("few")
        assert set(column(page, 4)) == {"few"}
        status = page.locator("#table-classes [role=status]")
        assert status.inner_text() == f"{len(column(page, 0))} of {len(column(page, 0))} classes shown"
        filtered.fill("no such class")
        assert status.inner_text() == "0 of 0 classes shown"


def test_a_long_table_is_shown_in_parts(browser, tmp_path):
    from benchmarks.report import made_up_run

    with browser(write_report(made_up_run(tmp_path / "run", 120, 240, 40, 10).path)) as page:
        assert len(column(page, 0)) == 25
        more = page.get_by_role("button", name="Show more")
        more.click()
        assert len(column(page, 0)) == 100
        more.click()
        assert len(column(page, 0)) == 120
        assert not more.is_visible()


def test_the_theme_can_be_changed(browser, report):
    with browser(report) as page:
        button = page.get_by_role("button", name="Dark")
        before = page.locator("#plot-accuracy .xtick text").first.evaluate("e => getComputedStyle(e).fill")
        button.press("Enter")
        assert button.get_attribute("aria-pressed") == "true"
        page.wait_for_function(
            "old => getComputedStyle(document.querySelector('#plot-accuracy .xtick text')).fill !== old", arg=before
        )


def test_keyboard_and_screen_reader(browser, report):
    with browser(report) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.locator("h1").count() == 1
        levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
        unnamed = "[...document.querySelectorAll('img:not([alt]), .canvas:not([aria-label]), button:empty')].length"
        assert page.evaluate(unnamed) == 0
        targets = page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href'))")
        assert all(page.locator(target).count() == 1 for target in targets)
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_nothing_is_cut_off_on_paper(browser, report):
    with browser(report, 718) as page:  # an A4 page between its margins
        page.emulate_media(media="print")
        cut = "[...document.querySelectorAll('.scroll, pre')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert page.locator(".scroll").count() > 2
        assert page.evaluate(cut) == 0
        assert page.evaluate("document.documentElement.scrollWidth") == 718


def test_print_is_on_white_and_whole(browser, report):
    with browser(report, scheme="dark") as page:
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.className") == ""
        assert not page.locator("nav").is_visible()
        assert page.locator("#verdict h2").is_visible()
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("document.documentElement.className") == "dark"
        assert len(page.pdf(print_background=True)) > 50_000
