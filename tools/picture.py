"""Makes docs/images/report.png: the top of the report of the demo's Balanced Softmax, or of a finished run that is named."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import longtail
from longtail.cli.train import DEMO
from longtail.report.run_report import write_report

OUT = Path(__file__).parents[1] / "docs" / "images" / "report.png"

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        if sys.argv[1:]:
            shutil.copytree(sys.argv[1], f"{folder}/run")
            write_report(f"{folder}/run")
        else:
            longtail.train("balanced_softmax", out=f"{folder}/run", **DEMO)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1150})
        page.goto(Path(folder, "run", "report.html").as_uri())
        page.wait_for_function("[...document.querySelectorAll('.canvas')].every(c => c.dataset.drawn === '')")
        page.wait_for_timeout(1000)
        page.screenshot(path=f"{folder}/report.png")
        Image.open(f"{folder}/report.png").convert("RGB").quantize(128).save(OUT, optimize=True)
