"""The page as text: everything of a folder is on it, nothing of it is taken for markup, nothing is fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from mcl.report.chart import STAND_INS, Line, line_chart
from mcl.report.page import page_of, render
from mcl.report.runs import read_runs

from .conftest import WILD

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use", "rect", "circle"}


class Seen(HTMLParser):
    """Tags, attributes and visible text of a page; that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [given[name] for name in ("src", "href", "xlink:href", "action", "srcset") if given.get(name)]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self._open):
            self.text += data


@pytest.fixture(scope="module")
def seen(html):
    return Seen(html)


def test_names_are_text(html, seen):
    assert seen.tags.count("script") == 1, "only the page's own"
    assert not {"em", "u", "b", "we"} & set(seen.tags)
    assert WILD[0] in seen.text and WILD[1] in seen.text and "good <b>" in seen.text and "What <we> found" in seen.text
    assert "<em>mine</em> $x^{" in seen.text and "\x1b" not in html and "\\x1b" in seen.text


def test_nothing_is_fetched(html, seen):
    assert all(address.startswith(("data:", "#")) for address in seen.addresses)
    assert "default-src 'none'" in html and not re.search(r"@import|url\((?!#)", html)


def test_places_that_links_lead_to_are_there_once(seen):
    ids = [name for name in seen.ids if not re.fullmatch(r"[mp][0-9a-f]{10}", name)]
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in seen.addresses if address.startswith("#")} <= set(seen.ids)


def test_everything_of_the_folders_is_there(runs, seen):
    good = next(run for run in read_runs(list(runs.values())) if run.name == "good <b>")
    for told in (
        "not finished: step 100 of 400", "1m35s", "25,600", "999 MB", f"{100 * good.numbers['bbox']['AP']:.1f}", "mcl-tiny-128",
        "Settings that differ from the recipe", "Accuracy against chance", "Rank of targets", "Cosine to the own target", "AP while training",
        "Precision over recall", "What was taken for what", "Errors by kind", "nothing there", "<i>27%</i> of the time", "<u>1</u> of 51 boxes",
        "AP against labelled scenes: trees", "AP against the cost of pre-training: stamps", "Is <b>it</b> worth it?", "TFLOP",
        "AP less that of scratch", "the first batch's montages", "Annotated and detected", "AP small", "Difference to good <b>",
    ):  # fmt: skip
        assert told in seen.text, told
    assert seen.tags.count("img") == 5  # two montages, three detections


def test_an_unfinished_run_alone_and_a_study_without_results(runs, tmp_path):
    (tmp_path / "cells.jsonl").write_text('{"id": "x", "kind": "cell", "data": "toy", "start": "<s>", "seed": 1, "result": {"box_AP": 0.25}}\n')
    text = Seen(render(page_of(read_runs([runs["begun"], tmp_path]), "Report", 0))).text
    assert "not finished: step 100 of 400" in text and "1 trainings done" in text and "25.0" in text and "<s>" in text


def test_a_run_that_has_logged_nothing(runs, tmp_path):
    (tmp_path / "config.yaml").write_text((runs["begun"] / "config.yaml").read_text())
    assert "nothing logged yet" in Seen(render(page_of(read_runs([tmp_path]), "Report", 0))).text


def test_a_damaged_picture_is_told(runs, tmp_path):
    (tmp_path / "config.yaml").write_text((runs["begun"] / "config.yaml").read_text())
    (tmp_path / "montage.png").write_bytes(b"no picture")
    assert "montage.png cannot be shown" in Seen(render(page_of(read_runs([tmp_path]), "Report", 0))).text


def test_a_chart_has_the_pages_colours_and_no_formulas():
    chart = line_chart("t", [Line("$a^{", [1, 2], [1.0, float("nan")])], x_label="$b_{", level=(1.0, "$c"))
    assert not any(stand_in in chart.svg for stand_in in STAND_INS) and "var(--series-0)" in chart.svg
    assert "$b_{" in chart.svg and "$c" in chart.svg and "<style" not in chart.svg
    assert line_chart("t", [Line("", [1], [None])]) is None
