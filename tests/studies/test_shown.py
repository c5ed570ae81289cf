"""Tables and figures of known results."""

import pytest

from mcl.studies.figures import draw_figures
from mcl.studies.tables import flops, interval, to_markdown


def row(start, labels, ap, steps=None):
    budget = {"steps": steps, "images": 4 * steps, "flops": steps * 10**12} if steps else None
    point = [ap, ap - 0.02, ap + 0.02]
    return {
        "data": "toy", "start": start, "entry": start, "freeze": "none", "labels": labels, "steps": 50, "budget": budget,
        "seeds": 3, "pretrain_seeds": 1, "box_AP": point, "box_AP difference": None if start == "scratch" else point,
        "pretrain_seconds": 60.0 if steps else None, "pretrain_peak_mb": 100.0 if steps else None, "finetune_seconds": 5.0,
        "curve": [{"step": s, "mean": ap * s / 50, "least": 0.0, "most": ap} for s in (25, 50)],
    }  # fmt: skip


@pytest.fixture
def results():
    rows = [row("scratch", n, 0.1) for n in (10, 20)] + [row("mcl", n, 0.2, steps) for steps in (10, 40) for n in (10, 20)]
    return {"rows": rows, "trials": [], "reference": "scratch", "control": None, "resamples": 100}


def test_markdown(results):
    told = to_markdown(results)
    assert "| mcl | 40 | 20 | 1 x 3 | 20.0 (18.0 .. 22.0) | +20.0 (+18.0 .. +22.0) |" in told
    assert "| mcl | 40 | 20 | 40 TFLOP | 160 | 1m00s | 100 MB | 50 steps | 5s |" in told
    assert len(told.splitlines()) == 2 * (2 + len(results["rows"])) + 1


def test_numbers():
    assert interval([0.5, None, None]) == "50.0" and interval(None) == "-"
    assert interval([0.5, 0.25, 0.75], unit="%") == "50% (25 .. 75)" and flops(2.06e13) == "20.6 TFLOP"


def test_figures_are_drawn_as_png_and_svg(results, tmp_path):
    drawn = draw_figures(results, tmp_path)
    assert [path.stem for path in drawn] == ["ap-labels", "ap-flops", "ap-steps", "difference"]
    assert all(path.stat().st_size > 5000 and path.with_suffix(".svg").is_file() for path in drawn)
    one = {**results, "rows": results["rows"][:1]}
    assert [path.stem for path in draw_figures(one, tmp_path / "one")] == ["ap-steps"]
