"""The packaged recipes: what they say, and that they run."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import longtail
from longtail.api import make_config
from longtail.config import TrainConfig, merge, validate
from longtail.data.augment import parse
from longtail.engine.prepare import stages_of
from longtail.engine.run import Run
from longtail.engine.schedule import learning_rate
from longtail.errors import UsageError
from longtail.models import backbone_names
from longtail.recipes import all_recipes, find_recipe

every_recipe = pytest.mark.parametrize("name", all_recipes())

# The papers' tables, top-1 in percent, in the order of imbalance factors 100 / 50 / 10 for the CIFAR sets; the figures of
# one recipe are separated by commas.
REPORTED = {
    "glmc/cifar10-lt": "87.75, 88.50, 89.58 / 90.18, 91.04, 92.04 / 94.04, 94.87, 95.00",
    "glmc/cifar100-lt": "55.88, 57.97, 58.41, 50.11, 44.63 / 61.08, 63.78, 64.57 / 70.74, 73.40, 74.28",
    "glmc/imagenet-lt": "56.3, 56.7, 57.21",
    "glmc/inaturalist2018": "72.21",
    "glmc/cifar100-balanced": "83.05",
    "glmc/imagenet-balanced": "80.2",
    "bce3s/cifar10-lt": "90.08 / /",
    "bce3s/cifar100-lt": "59.50, 57.75, 54.73, 55.99 / 65.23 / 76.13",
    "bce3s/imagenet-lt": "58.54",
    "bce3s/inaturalist2018": "",
    "bcl/cifar10-lt": "84.32 / 87.24 / 91.12",
    "bcl/cifar100-lt": "51.93 / 56.59 / 64.87",
    "bcl/imagenet-lt": "57.2",
    "bcl/imagenet-lt-r50": "56.0",
    "bcl/inaturalist2018": "71.8",
    "ride/cifar100-lt": "48.6, 49.0, 49.4, 50.2 / 51.4 / 59.8",
    "ride/cifar100-cmo-lt": "50.0 / 53.0 / 60.2",
    "ride/imagenet-lt": "55.7, 56.8, 57.5",
    "ride/imagenet-lt-cmo": "56.2",
    "ride/inaturalist2018": "71.2, 72.6, 72.9",
    "sade/cifar100-lt": "49.8 / /",
    "sade/imagenet-lt": "58.8",
    "sade/inaturalist2018": "72.9",
    "ncl/cifar10-lt": "84.7 / /",
    "ncl/cifar100-lt": "53.3 / 56.8 /",
    "balpoe/cifar100-lt": "52.0 / 56.3 / 64.8",
    "balpoe/cifar100-400epochs-lt": "55.9 / 60.1 /",
    "balpoe/imagenet-lt": "59.3",
    "balpoe/inaturalist2018": "75.0",
    "ce/cifar10-lt": "70.4 / 74.8 / 86.4",
    "ce/cifar100-lt": "38.3 / 43.9 / 55.7",
    "balanced_softmax/cifar10-lt": "80.92 / /",
    "balanced_softmax/cifar100-lt": "42.01 / 47.03 / 57.74",
    "supcon/cifar10-lt": "/ /",
    "supcon/cifar100-lt": "/ /",
    "kcl/cifar10-lt": "77.6 / 81.7 / 88.0",
    "kcl/cifar100-lt": "42.8 / 46.3 / 57.6",
    "kcl/imagenet-lt": "51.5, 51.36",
    "tsc/cifar10-lt": "79.7 / 82.9 / 88.7",
    "tsc/cifar100-lt": "43.8 / / 59.0",
    "tsc/imagenet-lt": "52.4, 52.44",
    "paco/cifar10-lt": "85.11 / 87.07 / 90.79",
    "paco/cifar100-lt": "52.0 / 56.0 / 64.2",
    "paco/imagenet-lt": "58.2",
    "paco/imagenet-lt-r50": "57.0",
    "paco/inaturalist2018": "73.2",
    "gpaco/cifar10-lt": "/ /",
    "gpaco/cifar100-lt": "/ /",
    "gpaco/imagenet-lt": "58.9",
    "gpaco/imagenet-lt-r50": "58.5",
    "gpaco/inaturalist2018": "75.4",
    "paco/places-lt": "41.2",
    "gpaco/places-lt": "41.7",
    "cmo/inaturalist2018": "70.9",
    "tau_norm/inaturalist2018": "",
    "ncm/inaturalist2018": "",
    "mixup/cifar10-400epochs-lt-100": "74.06",
    "mixup/cifar10-400epochs-lt-50": "78.67",
    "mixup/cifar100-400epochs-lt-100": "40.82",
    "mixup/cifar100-400epochs-lt-50": "45.92",
    "balms/cifar10-lt": "/ /",
    "balms/cifar100-lt": "/ /",
    "ssd/cifar10-lt": "/ /",
    "ssd/cifar100-lt": "46.0 / 50.5 / 62.3",
    "ssd/imagenet-lt": "55.4, 56.0",
    "proco/cifar10-lt": "85.9 / 88.2 / 91.9",
    "proco/cifar100-lt": "52.8 / 57.1 / 65.5",
    "proco/cifar100-lt-long-100": "54.2",
    "proco/imagenet-lt": "58.0",
    "proco/imagenet-lt-r50": "57.3",
    "proco/imagenet-lt-r50-long": "57.8",
}

# GLMC's hyper-parameters: sampling q, label weighting r, contrast weight g.
GLMC = {
    "cifar10-lt-100": (0, 1.2, 1),
    "cifar10-lt-50": (0, 1.2, 1),
    "cifar10-lt-10": (0.2, 1.0, 2),
    "cifar100-lt-100": (0, 1.2, 4),
    "cifar100-lt-50": (0.2, 1.2, 6),
    "cifar100-lt-10": (0.2, 1.2, 4),
    "imagenet-lt": (0.2, 1.0, 10),
}

# Epochs, batch size, learning rate, weight decay, warm-up epochs and schedule.
TRAINING = {
    "glmc/cifar100-lt-50": ("resnet32_w64", 200, 64, 0.01, 5e-3, 0, "cosine"),
    "glmc/imagenet-lt": ("resnext50_32x4d", 135, 120, 0.1, 2e-4, 10, "cosine"),
    "glmc/inaturalist2018": ("resnext50_32x4d", 120, 128, 0.1, 1e-4, 10, "cosine"),
    "bce3s/cifar100-lt-10": ("resnet34_cifar", 320, 64, 0.01, 5e-3, 0, "cosine"),
    "bcl/cifar10-lt-10": ("resnet32", 200, 256, 0.15, 5e-4, 5, "step"),
    "bcl/imagenet-lt": ("resnext50_32x4d", 90, 256, 0.1, 5e-4, 0, "cosine"),
    "bcl/imagenet-lt-r50": ("resnet50", 90, 256, 0.1, 5e-4, 0, "cosine"),
    "bcl/inaturalist2018": ("resnext50_32x4d", 100, 256, 0.2, 1e-4, 0, "cosine"),
    "ce/cifar10-lt-50": ("resnet32", 200, 128, 0.1, 2e-4, 5, "step"),
    "ride/cifar100-lt-100": ("resnet32", 200, 128, 0.1, 5e-4, 5, "step"),
    "ride/imagenet-lt": ("resnext50_32x4d", 100, 256, 0.1, 2e-4, 0, "step"),
    "ride/inaturalist2018": ("resnet50", 100, 512, 0.2, 2e-4, 0, "step"),
    "sade/imagenet-lt": ("resnext50_32x4d", 180, 64, 0.025, 5e-4, 0, "cosine"),
    "ncl/cifar10-lt-50": ("resnet32", 400, 64, 0.1, 2e-4, 5, "step"),
    "balpoe/cifar100-400epochs-lt-100": ("resnet32", 400, 128, 0.1, 5e-4, 10, "step"),
    "kcl/imagenet-lt": ("resnet50", 200, 256, 0.1, 5e-4, 0, "cosine"),
    "tsc/imagenet-lt": ("resnet50", 200, 256, 0.1, 1e-4, 0, "cosine"),
    "paco/cifar100-lt-50": ("resnet32", 400, 128, 0.05, 5e-4, 11, "step"),
    "paco/inaturalist2018": ("resnet50", 400, 128, 0.02, 1e-4, 10, "cosine"),
    "gpaco/imagenet-lt-r50": ("resnet50", 400, 128, 0.04, 5e-4, 10, "cosine"),
    "paco/places-lt": ("timm:resnet152.tv_in1k", 30, 128, 0.02, 5e-4, 5, "cosine"),
    "gpaco/places-lt": ("timm:resnet152.tv_in1k", 30, 128, 0.02, 5e-4, 5, "cosine"),
    "cmo/inaturalist2018": ("resnet50", 200, 256, 0.1, 2e-4, 5, "step"),
    "tau_norm/inaturalist2018": ("resnet50", 90, 512, 0.2, 1e-4, 0, "cosine"),
    "balms/cifar10-lt-10": ("resnet32", 325, 512, 0.1, 5e-4, 20, "cosine"),
    "balms/cifar100-lt-50": ("resnet32", 520, 512, 0.1, 5e-4, 32, "cosine"),
    "balanced_softmax/cifar100-release-lt-100": ("resnet32", 591, 512, 0.1, 5e-4, 37, "cosine"),
    "ssd/imagenet-lt": ("resnext50_32x4d", 135, 256, 0.1, 5e-4, 0, "cosine"),
    "proco/cifar100-lt-100": ("resnet32", 200, 256, 0.3, 2e-4, 5, "step"),
    "proco/imagenet-lt-r50": ("resnet50", 90, 256, 0.1, 5e-4, 0, "cosine"),
}

# PaCo's learning rates on CIFAR and on large sets, at epochs 0, 9, 10, 11 and near the end, over the peak.
PACO_RATES = {
    "paco/cifar100-lt-100": {0: 0.1, 9: 1.0, 10: 1.1, 11: 1.0, 320: 1.0, 321: 0.1, 360: 0.1, 361: 0.01, 399: 0.01},
    "paco/imagenet-lt": {e: (e + 1) / 10 for e in range(10)}
    | {e: (1 + math.cos(math.pi * (e - 9) / 391)) / 2 for e in (10, 11, 200, 399)},
}


@pytest.mark.parametrize("name", PACO_RATES)
def test_paco_s_learning_rates_are_those_of_its_release(name: str) -> None:
    train = make_config("paco", name).train
    rates = {epoch: learning_rate(train, epoch, 0, 9) / train.lr for epoch in PACO_RATES[name]}
    assert rates == pytest.approx(PACO_RATES[name])


def test_figures_are_those_of_the_papers() -> None:
    expected = {}
    for name, cells in REPORTED.items():
        columns = cells.split("/")
        names = [name] if len(columns) == 1 else [f"{name}-{factor}" for factor in (100, 50, 10)]
        for recipe, figures in zip(names, columns, strict=True):
            expected[recipe] = [float(figure) for figure in figures.split(",") if figure.strip()]
    assert {name: [figure.top1 for figure in all_recipes()[name].reported] for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("glmc/imagenet-lt", [(70.1, 52.4, 30.4), (60.8, 55.9, 45.5), (64.76, 55.67, 42.19)]),
        ("bce3s/cifar100-lt-100", [(83.34, 57.09, 22.8)]),
        ("ride/cifar100-lt-100", [(67.0, 49.9, 25.7)]),
        ("ride/imagenet-lt", [(67.0, 52.2, 36.0)]),
    ],
)
def test_figures_by_shots_are_those_of_the_papers(name: str, expected: list[tuple[float, ...]]) -> None:
    reported = [(figure.many, figure.medium, figure.few) for figure in all_recipes()[name].reported]
    assert [shots for shots in reported if shots != (None, None, None)] == expected


@pytest.mark.parametrize(("name", "expected"), TRAINING.items())
def test_training_is_that_of_the_papers(name: str, expected: tuple[Any, ...]) -> None:
    config = make_config(name.split("/")[0], name)
    train = config.train
    rest = (train.epochs, train.batch_size, train.lr, train.weight_decay, train.warmup_epochs, train.schedule)
    assert (config.backbone, *rest) == expected
    assert (train.optimizer, train.momentum) == ("sgd", 0.9)
    assert train.nesterov == (name.split("/")[0] in ("ride", "sade", "balpoe"))


@pytest.mark.parametrize(("setting", "expected"), GLMC.items())
def test_glmc_s_hyper_parameters(setting: str, expected: tuple[float, ...]) -> None:
    options = make_config("glmc", setting).options
    assert (options["resample_weighting"], options["label_weighting"], options["contrast_weight"]) == expected


@every_recipe
def test_builds_a_checked_configuration(name: str) -> None:
    method, _, setting = name.partition("/")
    config = make_config(method, setting)
    assert config.model_copy(update={"recipe": name}) == make_config(method, name)
    assert config.backbone in backbone_names() or (config.pretrained and config.backbone.startswith("timm:"))
    sizes = {"cifar": None, "casia": 112}
    assert config.data.image_size == sizes.get(setting[:5], 224)
    if "-lt-" in setting and "cifar" in setting:
        assert config.data.imbalance == float(setting.rpartition("-")[2])
    for stage in stages_of(config):
        validate(TrainConfig, merge(config.train.model_dump(), stage.optim), name)
        assert all(parse(view, config.data.image_size or 32) for s in stage.streams.values() for view in s.views)


def test_unknown_recipes_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="glmc/cifar10-lt-100"):
        find_recipe("glmc", "cifar10-lt-1000")
    with pytest.raises(UsageError, match="for bcl, not for glmc"):
        find_recipe("glmc", "bcl/cifar10-lt-100")


def test_a_recipe_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("backbone: resnet20\ntrain: {epochs: 7}\noptions: {contrast_weight: 3.0}\n")
    config = make_config("glmc", str(file), {"train": {"lr": 0.02}})
    assert (config.backbone, config.train.epochs, config.train.lr) == ("resnet20", 7, 0.02)
    assert (config.train.weight_decay, config.options["contrast_weight"]) == (5e-3, 3.0)
    file.write_text("backbone: resnet20\ntrain: {epoch: 7}\n")
    with pytest.raises(UsageError, match=r"'epoch'.*'epochs'"):
        make_config("glmc", str(file))


def write_list(folder: Path, split: str, images_of: tuple[int, ...]) -> Path:
    """Photograph-sized JPEGs of varied sizes, and a list of them in the layout of ImageNet-LT's."""
    draw = np.random.default_rng(len(split))
    lines = []
    for label, count in enumerate(images_of):
        for i in range(count):
            path = folder / "images" / split / f"n{label:08}" / f"n{label:08}_{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = draw.integers(256, size=(5, 6, 3), dtype=np.uint8)
            size = tuple(int(side) for side in draw.integers((230, 200), (370, 320)))
            Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=80)
            lines.append(f"{path.relative_to(folder / 'images')} {label}\n")
    file = folder / f"ImageNet_LT_{split}.txt"
    file.write_text("".join(lines))
    return file


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The `data` section of a small set in the official list format."""
    folder = tmp_path_factory.mktemp("lists")
    train, test = (write_list(folder, *split) for split in (("train", (5, 2, 1)), ("test", (2, 1, 1))))
    return {"source": f"list:{train}", "test": f"list:{test}", "root": str(folder / "images")}


def run_large(name: str, lists: dict[str, str], out: Path, backbone: str, workers: int) -> None:
    method, _, setting = name.partition("/")
    finetune: dict[str, Any] = {"finetune_epochs": 1} if method != "bcl" else {}
    results = longtail.train(
        method,
        recipe=setting,
        out=out,
        data=lists | {"workers": workers},
        backbone=backbone,
        train={"epochs": 1, "batch_size": 4},
        options=finetune,
    )
    assert results["data"]["train_images"] == 8
    assert 0 <= results["metrics"]["top1"] <= 100
    log = (out / "log.txt").read_text()
    assert "8 images of 3x256x256" in log
    assert f"streaming, {workers} workers" in log
    assert longtail.load(out).description.preprocessing.image_size == 224


LARGE = [f"{method}/{setting}" for method in ("glmc", "bce3s", "bcl") for setting in ("imagenet-lt", "inaturalist2018")]


@pytest.mark.parametrize("name", LARGE)
def test_recipes_of_large_sets_run_on_a_small_one(name: str, lists: dict[str, str], tmp_path: Path) -> None:
    run_large(name, lists, tmp_path / "run", "timm:test_resnet", workers=2 if name == LARGE[0] else 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_recipes_of_large_sets_run_with_their_own_network(name: str, lists: dict[str, str], tmp_path: Path) -> None:
    run_large(name, lists, tmp_path / "run", all_recipes()[name].backbone, workers=2)


def write_cifar10(folder: Path, train: int, test: int) -> None:
    """CIFAR-10's official python layout, with `train` and `test` images of each class."""
    draw = np.random.default_rng(0)

    def batch(labels: np.ndarray) -> bytes:
        data = draw.integers(256, size=(len(labels), 3072), dtype=np.uint8)
        return pickle.dumps({b"data": data, b"labels": labels.tolist()})

    folder.mkdir()
    for i, labels in enumerate(np.tile(np.arange(10), train).reshape(5, -1), 1):
        (folder / f"data_batch_{i}").write_bytes(batch(labels))
    (folder / "test_batch").write_bytes(batch(np.tile(np.arange(10), test)))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [f"class{c}".encode() for c in range(10)]}))


def test_cifar_recipe_runs_on_the_official_layout(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar", train=20, test=2)
    results = longtail.train(
        "glmc",
        recipe="cifar10-lt-100",
        data={"source": f"cifar10:{tmp_path / 'cifar'}", "imbalance": 10.0},
        out=tmp_path / "run",
        backbone="resnet8",
        train={"epochs": 2, "batch_size": 32},
    )
    assert longtail.load(tmp_path / "run").description.class_counts == (20, 15, 11, 9, 7, 5, 4, 3, 2, 2)
    assert results["data"]["train_images"] == 78
    assert results["data"]["subset"] == "exp, random"
    assert results["data"]["test_images"] == 20
    config = Run(tmp_path / "run").config()
    assert (config.train.lr, config.train.weight_decay, config.train.epochs) == (0.01, 5e-3, 2)
    assert config.options["augment"] == "crop:4,flip"
