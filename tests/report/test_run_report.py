"""What stands in a report, for small and large runs, old ones and damaged ones."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import longtail as package
from benchmarks.report import CASES, made_up_run
from longtail.errors import UsageError
from longtail.evaluation.predictions import read
from longtail.report import suspects
from longtail.report.pictures import EXAMPLES, PAIRS
from longtail.report.run_report import PARTS, write_report
from longtail.report.suspects import SHOWN, doubtful_labels, most_wrong
from longtail.report.thumbnails import Thumbnails

MEGABYTES = 8


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def words(page):
    """The text that a reader sees, without scripts."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def run(odd_run, tmp_path):
    """A copy that may be spoiled; its images stay where they are."""
    return shutil.copytree(odd_run.path, tmp_path / "run")


@pytest.fixture(scope="module")
def page(odd_run, tmp_path_factory):
    return write_report(odd_run.path, tmp_path_factory.mktemp("page") / "odd.html").read_text()


def test_all_parts_stand_in_order(page):
    places = [page.index(f'<section id="{part}">') for part in PARTS]
    assert places == sorted(places)
    for figure in data_of(page)["figures"]:
        assert f'id="plot-{figure}"' in page


def test_the_table_of_classes_is_the_predictions(page, odd_run):
    predictions = read(odd_run.path)
    rows = {row[0]: row for row in data_of(page)["tables"]["classes"]["rows"]}
    for c, name in enumerate(predictions.classes.names):
        of_class = predictions.predicted[predictions.labels == c]
        wrong = np.bincount(of_class[of_class != c], minlength=10)
        _, accuracy, low, high, shot, train, test, ratio, taken, share = rows[name]
        assert accuracy == pytest.approx(100 * (of_class == c).mean(), abs=0.05)
        assert low <= accuracy <= high
        assert (shot, train, test) == (predictions.classes.shots[c], predictions.classes.counts[c], len(of_class))
        assert ratio == pytest.approx((predictions.predicted == c).sum() / len(of_class), abs=0.005)
        if wrong.any():
            assert wrong[predictions.classes.names.index(taken)] == wrong.max()
            assert share == pytest.approx(100 * wrong.max() / len(of_class), abs=0.05)
        else:
            assert taken is share is None


def test_the_words_are_figures_of_the_results(page, odd_run):
    metrics = odd_run.results()["metrics"]
    said = words(page)
    assert f"class-balanced accuracy is {100 * metrics['class_balanced']:.1f} %" in said
    assert f"calibration error {100 * metrics['ece']:.1f}" in said
    assert f"Harmonic mean over all classes: {100 * metrics['harmonic_mean']:.1f}" in said
    for shot in ("many", "medium", "few"):
        assert re.search(rf"{shot} \([^)]*\) [\d, ]+ {100 * metrics[shot]:.1f} ", said)
    assert re.search(rf"worst tenth of the classes [\d, ]+ {100 * metrics['worst_tenth']:.1f} ", said)
    assert odd_run.results()["data"]["subset_hash"] in said
    assert odd_run.results()["data"]["labels_hash"] in said


def test_names_are_text(page):
    assert "<script>window.harm" not in page
    assert "<i>x</i>" not in page
    assert "&lt;script&gt;window.harm = 1&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page


def test_the_page_loads_nothing(page):
    without_plotly = page.replace(__import__("plotly.offline", fromlist=["x"]).get_plotlyjs(), "")
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", without_plotly)
    assert "url(" not in without_plotly


def test_geometry_is_shown_once_it_was_measured(run):
    assert "longtail eval" in words(write_report(run).read_text())
    group = {"compactness": 0.5, "row_angle_mean": None}
    content = {"geometry": {"train": dict.fromkeys(("all", "many", "medium", "few"), group)}}
    (run / "evaluation-test.json").write_text(json.dumps(content))
    said = words(write_report(run).read_text())
    assert "Geometry of train features" in said
    assert "compactness 0.500" in said


def test_images_that_moved_leave_the_rest(run):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("images.npz", "gone.npz"))
    page = write_report(run).read_text()
    assert "There are no pictures, because the run" in words(page)
    assert "<img" not in page
    assert data_of(page)["tables"]["classes"]["rows"]


def test_an_old_run_opens_and_says_what_is_missing(run):
    path = run / "predictions.parquet"
    facts = json.loads(pq.read_schema(path).metadata[b"longtail"])
    table = pq.read_table(path).select(["image", "label", "prediction", "probability", "label_probability"])
    pq.write_table(table.replace_schema_metadata(None), path)
    (run / "model.json").write_text(json.dumps(facts))
    results = json.loads((run / "results.json").read_text())
    del results["multiply_adds"], results["data"]["labels_hash"]
    (run / "results.json").write_text(json.dumps(results))
    said = words(write_report(run).read_text())
    assert "Not looked for: the scores of all classes were not kept" in said
    assert "multiply-adds an image not recorded" in said


def test_without_predictions_training_and_provenance_remain(run):
    (run / "predictions.parquet").unlink()
    page = write_report(run).read_text()
    assert "Nothing can be said about classes and images" in words(page)
    assert re.findall(r'<section id="(\w+)">', page) == ["training", "provenance"]


def test_what_is_no_finished_run_is_refused(run, tmp_path, longtail):
    with pytest.raises(UsageError, match="is not a run folder"):
        write_report(tmp_path)
    (run / "results.json").unlink()
    code, _, err = longtail("report", run)
    assert (code, "has not finished" in err) == (2, True)
    assert not (run / "report.html").exists()


def test_the_command_says_where_the_page_is(run, tmp_path, longtail):
    code, out, _ = longtail("report", run, "--out", tmp_path / "deep" / "page.html")
    assert code == 0
    assert f"Report: {tmp_path / 'deep' / 'page.html'}" in out
    assert (tmp_path / "deep" / "page.html").stat().st_size > 1e6


def test_pictures_are_bounded_in_number_and_bytes(page, odd_run):
    assert page.count("<img") <= PAIRS * 2 * EXAMPLES + 3 * SHOWN
    images = package.data.sources.open_source(odd_run.config().data.source).test
    few = Thumbnails(budget=2_000)
    made = [few.uri(images, i) for i in range(30)]
    assert 0 < sum(uri is not None for uri in made) < 30
    assert sum(len(uri) for uri in made if uri) < 4_000
    assert few.uri(images, 0) == made[0]


def test_most_wrong_images_are_of_rare_classes_and_surest_first(odd_run):
    predictions = read(odd_run.path)
    found = most_wrong(predictions)
    assert len(found)
    assert set(predictions.shots[predictions.labels[found]]) == {"few"}
    assert not predictions.correct[found].any()
    assert (np.diff(predictions.probability[found]) <= 0).all()


def test_wrong_labels_are_doubted(tmp_path):
    """A tenth of the labels is changed; a model that is mostly right finds them."""
    pytest.importorskip("cleanlab")
    from dataclasses import replace

    predictions = read(made_up_run(tmp_path / "run", 5, 500, 60, 3, strength=2).path)
    changed = np.arange(0, 500, 10)
    labels = predictions.labels.copy()
    labels[changed] = (labels[changed] + 1) % 5
    found, about = doubtful_labels(replace(predictions, labels=labels))
    assert len(set(found) & set(changed)) > 30
    assert len(set(found) - set(changed)) < 10
    assert "500 images of the 5 classes" in about


def test_without_cleanlab_the_page_says_so(odd_run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cleanlab.filter", None)
    found, about = suspects.doubtful_labels(read(odd_run.path))
    assert found is None
    assert "longtail[report]" in about


@pytest.mark.parametrize(
    "classes", [2, pytest.param(1000, marks=pytest.mark.slow), pytest.param(8142, marks=pytest.mark.slow)]
)
def test_pages_of_few_and_many_classes_are_small(classes, tmp_path):
    run = made_up_run(tmp_path / "run", classes, *CASES[classes])
    page = write_report(run.path)
    assert page.stat().st_size < MEGABYTES * 1e6
    assert len(data_of(page.read_text())["tables"]["classes"]["rows"]) == classes


def test_training_ends_with_a_report_unless_switched_off(photos, tmp_path, monkeypatch, longtail, caplog):
    monkeypatch.setattr("longtail.api.write_report", write_report)
    words_of = ("--data", photos, "--set", "backbone=resnet8", "--set", "accelerator=cpu", "--epochs", 1)
    code, out, _ = longtail("train", "ce", *words_of, "--out", tmp_path / "with")
    assert code == 0
    assert f"Report: {tmp_path / 'with' / 'report.html'}" in out
    assert "data:image/webp" in (tmp_path / "with" / "report.html").read_text()
    code, out, _ = longtail("train", "ce", *words_of, "--no-report", "--out", tmp_path / "without")
    assert "Report:" not in out
    assert not (tmp_path / "without" / "report.html").exists()

    def fails(path):
        raise RuntimeError("a bug")

    monkeypatch.setattr("longtail.api.write_report", fails)
    code, out, _ = longtail("train", "ce", *words_of, "--out", tmp_path / "failed")
    assert code == 0
    assert "The report could not be made: a bug" in out
    assert (tmp_path / "failed" / "results.json").exists()
