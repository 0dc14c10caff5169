"""Which images a run trains and is judged on."""

import longtail
from longtail.config import DataConfig
from longtail.engine.prepare import choose_images
from longtail.engine.run import Run


def held_out(photos, **options):
    subset = choose_images(DataConfig(source=str(photos), **options), seed=0)
    return {name: len(images) for name, images in {"train": subset.train, **subset.held_out}.items()}


def test_the_sources_own_validation_split(photos):
    (photos / "test").rename(photos / "valid")
    assert held_out(photos) == {"train": 20, "val": 6}
    # a share of training held out leaves the source's split to judge the run by
    assert held_out(photos, validation=0.25) == {"train": 15, "val": 5, "test": 6}
    assert held_out(photos, validation=0.0) == {"train": 20, "test": 6}


def test_validation_beside_a_test_split(photos):
    assert held_out(photos) == {"train": 20, "test": 6}
    (photos / "dev").mkdir()
    (photos / "test" / "dog").rename(photos / "dev" / "dog")
    assert held_out(photos) == {"train": 20, "val": 3, "test": 3}
    assert held_out(photos, validation=0.25) == {"train": 15, "val": 5, "test": 3}


def test_a_run_finds_its_images_from_another_folder(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    small = {"backbone": "resnet8", "train": {"epochs": 1, "batch_size": 8, "accelerator": "cpu"}}
    longtail.train("ce", data=".", out="../run", **small)
    elsewhere = tmp_path / "elsewhere"
    for name in ("cat", "dog"):
        (elsewhere / name).mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert Run.open(tmp_path / "run").config().data.source == f"folder:{photos}"
    assert longtail.evaluate(tmp_path / "run")["images"] == 6
