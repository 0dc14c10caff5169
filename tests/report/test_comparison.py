"""Comparing runs: what is refused, what is computed, and what is said."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml

from benchmarks.report import made_up_run
from longtail.errors import UsageError
from longtail.evaluation.predictions import read
from longtail.report.comparison import compare, sentences
from longtail.report.comparison_page import write_comparison
from longtail.report.comparison_tables import render

STRENGTHS = {"ce": 0.5, "balanced_softmax": 0.65, "glmc": 0.5}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two seeds of three methods, of which the last is as good as the first."""
    folder = tmp_path_factory.mktemp("compare")
    return [
        made_up_run(folder / f"{method}-{seed}", 8, 800, 200, 50, seed=seed + 10 * (method == "glmc"), method=method,
                    strength=strength).path
        for method, strength in STRENGTHS.items()
        for seed in range(2)
    ]  # fmt: skip


@pytest.fixture
def spoiled(runs, tmp_path):
    """Changes a copy of the last run: of its config, its results, or whatever is done to its folder."""

    def change(config=None, results=None, folder=None):
        copy = shutil.copytree(runs[-1], tmp_path / "copy")
        for name, load, dump, changes in (
            ("config.yaml", yaml.safe_load, yaml.safe_dump, config),
            ("results.json", json.loads, json.dumps, results),
        ):
            content = load((copy / name).read_text())
            for place, value in (changes or {}).items():
                part = content
                *outer, last = place.split(".")
                for key in outer:
                    part = part.setdefault(key, {})
                part[last] = value
            (copy / name).write_text(dump(content))
        if folder:
            folder(copy)
        return [*runs[:-1], copy]

    return change


def test_means_deviations_and_differences(runs):
    found = compare(runs[:4])
    ce, softmax = found.groups
    values = [json.loads((run / "results.json").read_text())["metrics"]["class_balanced"] for run in runs]
    assert (ce.name, softmax.name, found.baseline) == ("ce", "balanced_softmax", "ce")
    assert ce.mean("class_balanced") == pytest.approx(np.mean(values[:2]))
    assert softmax.deviation("class_balanced") == pytest.approx(np.std(values[2:4], ddof=1))
    contrast = found.contrast("balanced_softmax")
    assert contrast.seeds == pytest.approx({0: values[2] - values[0], 1: values[3] - values[1]})
    assert contrast.images.mean == pytest.approx(np.mean(values[2:4]) - np.mean(values[:2]))
    assert contrast.images.low < contrast.images.mean < contrast.images.high
    assert found.contrast("ce") is None


def test_every_measure_is_the_difference_of_the_means(runs):
    found = compare(runs[:4])
    for contrast in found.contrasts:
        expected = found.groups[1].mean(contrast.measure) - found.groups[0].mean(contrast.measure)
        assert contrast.images.mean == pytest.approx(expected), contrast.measure


def test_a_real_difference_is_shown_and_luck_is_not(runs):
    better, same = sentences(compare([*runs[:2], *runs[2:]]))[:2]
    assert re.match(
        r"balanced_softmax is better than ce by \d+\.\d points of class-balanced accuracy \(interval", better
    )
    assert "after Holm's correction for 2 comparisons" in better
    assert "ahead in 2 of 2 seeds" in better
    assert same.startswith("No difference between glmc and ce is shown")
    worse = sentences(compare(runs[:4], baseline="balanced_softmax"))[0]
    assert re.match(r"ce is worse than balanced_softmax by (\d+\.\d) points", worse)
    low, points, high = (
        float(re.search(p, worse)[1]) for p in (r"interval ([\d.]+)", r"by ([\d.]+)", r" to ([\d.]+),")
    )
    assert 0 < low < points < high


def test_one_seed_is_said_to_be_one(runs):
    assert "Where there is one seed" in sentences(compare([runs[0], runs[2]]))[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"results": {"data.subset_hash": "beef"}}, r"other training subsets: \w+ and beef\. .*--force"),
        ({"results": {"data.labels_hash": "beef"}}, "other labels: .* and beef"),
        (
            {"config": {"train.epochs": 7}},
            r"are both 'glmc' but differ in train\.epochs: group by that too, .*--by method,",
        ),
        ({"config": {"seed": 10}}, "are both 'glmc' with seed 10: leave one out"),
    ],
)
def test_what_does_not_compare_is_refused(spoiled, changes, message):
    with pytest.raises(UsageError, match=message):
        compare(spoiled(**changes))


def test_other_test_images_are_refused_and_by_force_only_common_ones_are_compared(runs, tmp_path):
    other = made_up_run(tmp_path / "other", 8, 400, 200, 50, method="bcl", strength=0.8).path
    facts = json.loads((other / "results.json").read_text())
    facts["data"] |= {
        k: json.loads((runs[0] / "results.json").read_text())["data"][k] for k in ("subset_hash", "labels_hash")
    }
    (other / "results.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match="were scored on other test images: 800 and 400"):
        compare([runs[0], other])
    found = compare([runs[0], other], force=True)
    assert "Not on equal terms" in found.notes[0]
    mine, theirs = read(runs[0]), read(other)
    both = mine.correct[:400], theirs.correct
    classes = mine.labels[:400]
    expected = np.mean([both[1][classes == c].mean() - both[0][classes == c].mean() for c in range(8)])
    assert found.contrast("bcl").images.mean == pytest.approx(expected)


def test_other_classes_are_refused(runs, tmp_path):
    other = made_up_run(tmp_path / "other", 8, 400, 200, 50, names=list("abcdefgh")).path
    with pytest.raises(UsageError, match="have other classes"):
        compare([runs[0], other])


def test_groups_are_named_by_what_differs(spoiled, runs):
    changed = spoiled(config={"train.lr": 0.03})
    found = compare(changed, by=["method", "lr", "seed"])
    assert [group.name for group in found.groups] == [
        "ce, lr=0.1", "balanced_softmax, lr=0.1", "glmc, lr=0.1", "glmc, lr=0.03",
    ]  # fmt: skip
    assert found.baseline == "ce, lr=0.1"
    with pytest.raises(UsageError, match=r"Unknown setting 'learning_rate'"):
        compare(runs, by=["learning_rate"])
    with pytest.raises(UsageError, match=r"Unknown group to compare with 'cee'\. Did you mean 'ce'"):
        compare(runs, baseline="cee")


def test_settings_that_differ_between_groups_are_told(spoiled, runs):
    changed = spoiled(config={"train.epochs": 7})
    notes = compare([*runs[:4], changed[-1]]).notes
    assert notes == ("The groups also differ in train.epochs (ce 200, balanced_softmax 200, glmc 7).",)


def test_a_run_twice_or_alone_is_refused(runs):
    for paths in ([runs[0]], [runs[0], runs[0]]):
        with pytest.raises(UsageError, match="at least two runs"):
            compare(paths)


def test_markdown_and_csv(runs):
    found = compare(runs)
    lines = render(found, "markdown").splitlines()
    assert lines[0].startswith("|  | seeds | class-balanced | top-1 |")
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert f"{100 * found.groups[0].mean('few'):.2f} ± " in lines[2]
    records = list(csv.DictReader(io.StringIO(render(found, "csv"))))
    assert [record["run"] for record in records] == [str(run) for run in runs]
    assert float(records[3]["class_balanced"]) == found.groups[1].values("class_balanced")[1]


def test_latex_is_a_table(runs, tmp_path):
    text = render(compare(runs), "latex")
    assert r"balanced\_softmax & 2 & " in text
    assert r" $\pm$ " in text
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in lines}) == 1
    if shutil.which("pdflatex"):
        (tmp_path / "t.tex").write_text(
            r"\documentclass{article}\usepackage{booktabs}\begin{document}" + text + r"\end{document}"
        )
        subprocess.run(["pdflatex", "-interaction=batchmode", "t.tex"], cwd=tmp_path, check=True)


def test_the_command(runs, tmp_path, longtail):
    page = tmp_path / "compare.html"
    code, out, _ = longtail("compare", *runs, "--out", page)
    assert code == 0
    assert "balanced_softmax is better than ce by" in out
    assert f"Comparison: {page}" in out
    assert page.stat().st_size < 8e6
    code, out, _ = longtail("compare", *runs, "--format", "markdown")
    assert (code, out) == (0, render(compare(runs), "markdown"))
    code, _, err = longtail("compare", *runs, "--format", "html")
    assert (code, "--format is markdown, latex or csv, not 'html'" in err) == (2, True)
    code, _, err = longtail("compare", runs[0], tmp_path)
    assert (code, "is not a run folder" in err) == (2, True)


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_in_a_browser(browser, runs, tmp_path, width):
    found = compare(runs)
    write_comparison(found, tmp_path / "compare.html")
    with browser(tmp_path / "compare.html", width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert [item.inner_text() for item in page.locator("#verdict li").all()] == sentences(found)
        assert page.locator(".canvas").count() == 6
        assert page.locator("#plot-classes .point").count() == 16
        head = page.locator("#table-classes thead button", has_text="balanced_softmax")
        head.click()
        column = [float(row.locator("td").nth(3).inner_text()) for row in page.locator("#table-classes tbody tr").all()]
        assert column == sorted(column, reverse=True)
        assert len(column) == 8
        assert page.locator("#groups tbody tr").count() == 3
