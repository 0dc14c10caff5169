"""Makes docs/images/report.png: the top of the report of a run on the set that comes with the package (about two minutes)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import longtail

OUT = Path(__file__).parents[1] / "docs" / "images" / "report.png"
TRAINING = {"epochs": 60, "batch_size": 64, "lr": 0.1, "schedule": "cosine"}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        longtail.train("balanced_softmax", out=f"{folder}/run", backbone="resnet8", train=TRAINING)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1150})
        page.goto(Path(folder, "run", "report.html").as_uri())
        page.wait_for_function("[...document.querySelectorAll('.canvas')].every(c => c.dataset.drawn === '')")
        page.wait_for_timeout(1000)
        page.screenshot(path=f"{folder}/report.png")
        Image.open(f"{folder}/report.png").convert("RGB").quantize(128).save(OUT, optimize=True)
