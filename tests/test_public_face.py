"""What others use of longtail without its loop, and what of theirs runs in it."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset

import longtail
from longtail.data.labels import labels_of
from longtail.errors import UsageError
from longtail.methods.plain import PlainMethod

SMALL = {"backbone": "resnet8", "train": {"epochs": 1, "batch_size": 8, "accelerator": "cpu"}, "report": False}
PAGE = Path(__file__).parents[1] / "docs" / "own-loop.md"


class Pictures(Dataset):
    """Grey or coloured squares whose images must not be read where labels are enough."""

    def __init__(self, labels: list[int], kind: str = "pillow") -> None:
        self.targets, self.kind, self.read = labels, kind, 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int):
        self.read += 1
        pixels = np.full((12, 12, 3), 40 + 150 * self.targets[i], np.uint8)
        image = {
            "pillow": lambda: Image.fromarray(pixels),
            "tensor": lambda: torch.from_numpy(pixels).permute(2, 0, 1),
            "float": lambda: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
        }[self.kind]()
        return image, self.targets[i]


class Doubled(PlainMethod):
    """A method of one's own."""

    def losses(self, batch, clock):
        return {f"doubled_{name}": 2 * value for name, value in super().losses(batch, clock).items()}


# Samplers


LABELS = [0] * 40 + [1] * 20 + [2] * 4


@pytest.mark.parametrize(
    ("make", "class_weight"),
    [
        (lambda **k: longtail.samplers.BalancedSampler(LABELS, **k), lambda n: 1.0),
        (lambda **k: longtail.samplers.PowerSampler(LABELS, 0.5, **k), lambda n: n**0.5),
        (lambda **k: longtail.samplers.SquareRootSampler(LABELS, **k), lambda n: n**0.5),
        (lambda **k: longtail.samplers.EffectiveNumberSampler(LABELS, 0.9, **k), lambda n: n * 0.1 / (1 - 0.9**n)),
        (lambda **k: longtail.samplers.ClassAwareSampler(LABELS, 3, **k), lambda n: 1.0),
    ],
    ids=["balanced", "power", "square root", "effective number", "class-aware"],
)
def test_samplers_draw_as_defined_alike_in_each_process_and_anew_each_epoch(make, class_weight) -> None:
    sampler = make(seed=3, samples=30_000)
    drawn = np.array(list(sampler))
    assert len(drawn) == len(sampler) == 30_000
    weights = np.array([class_weight(n) for n in (40, 20, 4)])
    shares = np.bincount(np.array(LABELS)[drawn], minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.015)
    within = np.bincount(drawn, minlength=64)[:40]
    assert within.min() > 0.6 * within.mean()  # images of a class alike
    parts = [list(make(seed=3, samples=30_000, rank=rank, world_size=2)) for rank in range(2)]
    assert [i for pair in zip(*parts, strict=True) for i in pair] == drawn.tolist()
    sampler.set_epoch(1)
    other = list(sampler)
    assert other != drawn.tolist()
    sampler.set_epoch(0)
    assert list(sampler) == drawn.tolist()


def test_the_class_aware_cycle_shows_every_image_before_any_again_across_epochs() -> None:
    """Against a plain loop over the visits, epoch after epoch."""
    sampler = longtail.samplers.ClassAwareSampler(LABELS, per_class=3, samples=60)
    drawn = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        drawn += list(sampler)
    visits = np.array(drawn).reshape(-1, 3)
    classes = np.array(LABELS)[visits]
    assert (classes == classes[:, :1]).all()
    assert all(sorted(cycle) == [0, 1, 2] for cycle in classes[:, 0].reshape(-1, 3))
    for label, count in enumerate((40, 20, 4)):
        of_class = np.array(drawn)[np.array(LABELS)[drawn] == label]
        for start in range(0, len(of_class) - count + 1, count):
            assert len(set(of_class[start : start + count])) == count
    orders = {tuple(cycle) for cycle in classes[:, 0].reshape(-1, 3)}
    assert len(orders) > 1


def test_progressive_goes_from_images_to_classes() -> None:
    sampler = longtail.samplers.ProgressiveSampler(LABELS, epochs=5, samples=20_000)
    shares = []
    for epoch in (0, 2, 4):
        sampler.set_epoch(epoch)
        shares.append(np.bincount(np.array(LABELS)[list(sampler)], minlength=3) / 20_000)
    natural = np.array([40, 20, 4]) / 64
    np.testing.assert_allclose(shares, [natural, (natural + 1 / 3) / 2, [1 / 3] * 3], atol=0.015)


def test_labels_are_found_without_reading_images() -> None:
    first, second = Pictures([0, 1, 2, 1]), Pictures([2, 2])
    joined = ConcatDataset([Subset(first, [3, 0]), second])
    assert labels_of(joined).tolist() == [1, 0, 2, 2]
    assert first.read == second.read == 0
    del first.targets


def test_labels_are_read_where_nothing_tells_them_and_it_is_said(caplog) -> None:
    caplog.set_level("INFO", logger="longtail")
    pairs = [(None, 1), (None, 0)]
    assert labels_of(Subset(pairs, [0])).tolist() == [1]
    assert "reading all 1 items for their labels" in caplog.text


@pytest.mark.parametrize("labels", [[-1, 0], [0.5, 1.0], [[1], [0]]])
def test_labels_that_are_none_are_refused(labels) -> None:
    with pytest.raises(UsageError, match="expected whole numbers of 0 or more"):
        longtail.samplers.BalancedSampler(np.array(labels))


# Code and data of others in our loop


@pytest.mark.parametrize("kind", ["pillow", "tensor"])
def test_a_method_and_data_sets_of_ones_own(tmp_path, kind) -> None:
    train, test = Pictures([0] * 24 + [1] * 8, kind), Pictures([0, 1] * 6, kind)
    results = longtail.train(Doubled, data=(train, test), out=tmp_path / "run", **SMALL)
    assert results["metrics"]["images"] == 12
    assert "doubled_ce" in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert longtail.load(tmp_path / "run").predict(test[0][0] if kind == "pillow" else np.zeros((12, 12, 3), np.uint8))


def test_a_given_data_set_is_asked_for_again_in_another_process(tmp_path) -> None:
    longtail.train("ce", data=Pictures([0] * 24 + [1] * 8), out=tmp_path / "run", **SMALL)
    code = f"import longtail; longtail.evaluate({str(tmp_path / 'run')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "handed over in Python, in a process that has ended" in done.stderr


def test_images_that_are_floats_are_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="without the transform that makes floats"):
        longtail.train("ce", data=Pictures([0] * 8 + [1] * 8, "float"), out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_hugging_face_data_set(tmp_path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    pictures = Pictures([0] * 12 + [1] * 6)
    rows = datasets.Dataset.from_dict(
        {"image": [pictures[i][0] for i in range(18)], "label": pictures.targets}, features=features
    )
    splits = datasets.DatasetDict({"train": rows, "test": rows.select([0, 17])})
    results = longtail.train("ce", data=splits, out=tmp_path / "run", **SMALL)
    assert results["metrics"]["images"] == 2
    assert longtail.load(tmp_path / "run").classes == ("a", "b")


PLUGIN = '''
"""A package that brings a method and a backbone."""
import torch
from longtail.methods.plain import PlainMethod
from longtail.models import Backbone


class Quiet(PlainMethod):
    """A method."""


def tiny(in_channels, image_size):
    stage = torch.nn.Sequential(torch.nn.Conv2d(in_channels, 4, 3), torch.nn.ReLU())
    return Backbone([stage], 4)


def nothing(in_channels, image_size):
    return torch.nn.Identity()
'''
ENTRY_POINTS = """[longtail.methods]
quiet = tiny_plugin:Quiet

[longtail.backbones]
tiny = tiny_plugin:tiny
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Path:
    """A folder into which a wheel with entry points was installed."""
    folder = tmp_path_factory.mktemp("plugin")
    info = "tiny_plugin-1.0.dist-info"
    files = {
        "tiny_plugin.py": PLUGIN,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    digests = {
        name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        for name, text in files.items()
    }
    record = "".join(f"{name},sha256={digests[name]},{len(text.encode())}\n" for name, text in files.items())
    with zipfile.ZipFile(folder / "tiny_plugin-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            wheel.writestr(name, text)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
    subprocess.run([*command, folder / "site", *folder.glob("*.whl")], check=True, timeout=120)
    return folder / "site"


@pytest.mark.parametrize(
    ("method", "backbone"), [("quiet", "tiny"), ("tiny_plugin:Quiet", "tiny_plugin:tiny"), ("quiet+ncm", "resnet8")]
)
def test_an_installed_package_adds_methods_and_backbones(
    plugin, photos, tmp_path, monkeypatch, longtail, method, backbone
):
    monkeypatch.syspath_prepend(str(plugin))
    command = [
        "train",
        method,
        "--data",
        photos,
        "--backbone",
        backbone,
        "--epochs",
        "1",
        "--no-report",
        "--out",
        tmp_path / "run",
    ]
    code, _, error = longtail(*command)
    assert code == 0, error
    code, out, error = longtail("predict", tmp_path / "run", photos / "test" / "cat" / "0.png")
    assert code == 0, error
    assert ",cat," in out or ",dog," in out


@pytest.mark.parametrize(
    ("method", "backbone", "message"),
    [
        ("no_such_module:Quiet", "resnet8", "Cannot find method 'no_such_module:Quiet'"),
        ("tiny_plugin:Loud", "resnet8", "has no attribute 'Loud'"),
        ("tiny_plugin:tiny", "resnet8", "is no method: expected a class that derives"),
        ("quite", "resnet8", "Unknown method 'quite'. Did you mean 'quiet'"),
        ("ce", "tiny_plugin:nothing", "made a Identity; expected a longtail.models.Backbone"),
        ("ce", "tini", "Unknown backbone 'tini'. Did you mean 'tiny'"),
    ],
)
def test_what_is_no_method_or_backbone(plugin, photos, tmp_path, monkeypatch, longtail, method, backbone, message):
    monkeypatch.syspath_prepend(str(plugin))
    code, _, error = longtail("train", method, "--data", photos, "--backbone", backbone, "--out", tmp_path / "run")
    assert code == 2
    assert message in error
    assert not (tmp_path / "run").exists()


# The page


def blocks() -> dict[str, list[str]]:
    """The page's Python blocks by the heading they stand under."""
    found: dict[str, list[str]] = {"": []}
    heading, inside = "", False
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
            found[heading] = []
        elif line.startswith("```"):
            inside = line == "```python"
            if inside:
                found[heading].append("")
        elif inside:
            found[heading][-1] += line + "\n"
    return found


@pytest.mark.parametrize(
    ("heading", "needs"),
    [
        ("PyTorch", None),
        ("Lightning", "lightning"),
        ("Hugging Face `Trainer`", "transformers"),
        ("timm's training script", None),
        ("The other way round: your code in our loop", None),
    ],
)
def test_the_page_runs(heading, needs, tmp_path, monkeypatch) -> None:
    if needs:
        from longtail.models.torchvision_compat import ensure_torchvision

        ensure_torchvision()
        pytest.importorskip(needs, reason=f"{needs} is not installed")
    monkeypatch.chdir(tmp_path)
    page = blocks()
    names = {"output": str(tmp_path / "out"), "__name__": "page"}
    wanted = [*page[""], *(page["PyTorch"][:1] if heading != "PyTorch" else []), *page[heading]]
    for block in wanted:
        exec(compile(block, f"{PAGE.name}: {heading}", "exec"), names)
    if heading == "PyTorch":
        assert names["metrics"]["class_balanced"] > 0.5
        assert np.bincount(test := np.asarray(names["balanced"])[names["kept"]]).tolist() == [16, 5, 2], test
    if heading.startswith("Hugging"):
        assert {"eval_class_balanced", "eval_few"} <= names["metrics"].keys()
