"""The page of `longtail data inspect --out`: what was found is on it, names are text, and its bytes are bounded."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from longtail.cli import app
from longtail.data.images import ArraySet, Splits
from longtail.data.inspect import inspect_source
from longtail.report.inspection_page import BUDGET, write_inspection

HARM = "<img src=x onerror=window.harm=1>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of 13 images in three classes: a copy within training with another label, a leak into test, and one that is no image."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("inspected")
    for split, name, count in (("train", HARM, 6), ("train", "b & c", 2), ("train", "d", 1), ("test", HARM, 1)):
        folder = root / "photos" / split / name
        folder.mkdir(parents=True)
        for i in range(count):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(file, "PNG")
            (folder / f"{i}.png").write_bytes(file.getvalue())
    photos = root / "photos"
    original = (photos / "train" / HARM / "0.png").read_bytes()
    (photos / "train" / "b & c" / "copy.png").write_bytes(original)
    (photos / "test" / HARM / "leak.png").write_bytes(original)
    (photos / "train" / "d" / "text.png").write_text("hello")
    out = root / "page.html"
    app(["data", "inspect", str(photos), "--out", str(out)], standalone_mode=False)
    return out


def test_what_was_found_is_on_it(page):
    text = page.read_text()
    assert HARM not in text
    assert not re.search(r'(src|href)="(?!data:|#)', text.partition("<script>")[0])
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["tables"]["classes"]["rows"] == [["d", "few", 2, 0], ["b & c", "few", 3, 0], [HARM, "few", 6, 2]]
    assert [sorted(trace["y"]) for trace in data["figures"]["counts"]["data"]] == [[2, 3, 6]]


@pytest.mark.parametrize("width", [390, 1440])
def test_it_is_shown(browser, page, width):
    with browser(page, width) as shown:
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        assert shown.evaluate("window.harm") is None
        assert shown.locator("#plot-counts .point").count() == 3
        named = shown.locator("#samples .what b").all_inner_texts()
        assert named == ["d", "b & c", HARM]  # the rarest first
        pictures = [item.locator("img").count() for item in shown.locator("#samples li").all()]
        assert pictures == [1, 3, 5]  # the unreadable one left out, at most five
        assert shown.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
        titles = shown.locator("#alike h3").all_inner_texts()
        assert titles == ["Within train", "Between train and test"]
        assert shown.locator("#alike li img").count() == 4
        assert "(1 with another label)" in shown.locator("#alike p").first.inner_text()
        assert "d/text.png: not an image" in shown.locator("#unreadable li").inner_text()
        cells = {row.locator("th").inner_text(): row.inner_text() for row in shown.locator("#summary tbody tr").all()}
        assert cells["values"].split("\t")[1:] == ["0 to 255", "0 to 255"]
        shown.get_by_label("Filter").fill("b & c")
        assert shown.locator("#table-classes tbody tr").count() == 1


def test_thousands_of_classes_stay_small(tmp_path):
    classes = 8_142
    labels = np.concatenate([np.arange(classes), np.zeros(50, np.int64)])
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
    names = [f"species {i} of a long Latin name" for i in range(classes)]
    train = ArraySet("made up", names, labels, pixels, "train")
    splits = Splits(train=train, test=None)
    write_inspection(inspect_source(splits), splits.named(), "made up", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert len(text) < 8e6
    assert text.count("a training image of") == 60 + 19 + 5
    assert "60 rarest and the 20 most frequent" in text
    assert sum(len(uri) for uri in re.findall(r'src="data:[^"]*"', text)) < BUDGET + 20_000
