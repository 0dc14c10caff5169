"""What several test files need."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from longtail.cli import main
from longtail.data.sources import open_source

# Two cores, many tests: threads of one test would only wait for those of another.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _short_trainings():
    """A report at the end of each of hundreds of trainings would take longer than they do, and so would looking for copies
    among their images; tests/report and tests/data/test_overlap.py do both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longtail.api.write_report", lambda path: None)
        patch.setattr("longtail.data.leaks.SECONDS", 0)
        yield


@pytest.fixture(autouse=True)
def _nothing_left():
    """Commands show the log on the terminal that they ran in, which is gone; Weights & Biases replaces sys.exit."""
    ending = sys.exit
    yield
    sys.exit = ending
    logger = logging.getLogger("longtail")
    logger.handlers, logger.propagate = [], True


@pytest.fixture
def longtail(monkeypatch, capsys):
    """Run a command in this process; gives its exit code, output and errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["longtail", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "500")
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def chromium():
    """A headless browser, the one that all tests of pages share."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = Path("/usr/bin/chromium")
    if not path.exists():
        pytest.skip(f"needs Chromium in {path}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(path), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """The first images of each class of the embedded set, as an npz source."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    splits = open_source("fashion-mnist-lt")
    arrays = {}
    for name, images in (("train", splits.train), ("test", splits.test)):
        chosen = np.concatenate([np.flatnonzero(images.labels == c)[:6] for c in range(10)])
        arrays |= {f"{name}_images": images.images[chosen], f"{name}_labels": images.labels[chosen]}
    np.savez(path, class_names=splits.train.class_names, **arrays)
    return str(path)


@pytest.fixture
def photos(tmp_path):
    """A folder of 20 + 6 small RGB images in two classes that a network can tell apart, as train/ and test/."""
    from PIL import Image

    for split, (many, few) in {"train": (16, 4), "test": (3, 3)}.items():
        for name, count, colour in (("cat", many, (200, 60, 60)), ("dog", few, (60, 60, 200))):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16), tuple(channel + i for channel in colour)).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub in a folder: repositories as subfolders."""
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs longtail[hub]")
    home = tmp_path / "hub"

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, name, private, exist_ok):
            assert exist_ok
            (home / name).mkdir(parents=True, exist_ok=True)
            return f"hub://{name}{' (private)' * private}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, home / repo_id, dirs_exist_ok=True)

    def snapshot_download(name, revision, allow_patterns):
        if not (home / name).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("no network")
        assert revision in (None, "v2")
        return str(home / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return home
