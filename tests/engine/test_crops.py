"""Test-time ensembling over five crops, against Pillow's resizing of the whole image and logits by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from longtail.classes import Classes
from longtail.data.images import ArraySet
from longtail.data.loaders import build_loader
from longtail.data.squares import five_crops
from longtail.engine.crops import evaluate_crops
from longtail.methods.plain import PlainMethod
from longtail.models import build_backbone


def test_crops_are_those_of_the_resized_image():
    smooth = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(smooth).resize((300, 200), Image.Resampling.BICUBIC))  # width 300, height 200
    whole = np.asarray(Image.fromarray(pixels).resize((372, 248), Image.Resampling.BILINEAR)).astype(int)
    expected = [whole[y : y + 224, x : x + 224] for y, x in ((0, 0), (0, 148), (24, 0), (24, 148), (12, 74))]
    crops = five_crops(pixels, 224, 24).astype(int)
    for crop, region in zip(crops, expected, strict=True):
        assert np.abs(crop.transpose(1, 2, 0) - region).max() <= 1


def test_scores_are_of_the_mean_logits():
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (11, 20, 20, 3), dtype=np.uint8)
    images = ArraySet("toy", tuple("abc"), np.arange(11) % 3, pixels, "test")
    loader = build_loader(
        images, device="cpu", channels=3, image_size=28, mean=(0.5,) * 3, std=(0.2,) * 3, budget_bytes=10**9
    )
    method = PlainMethod(build_backbone("resnet8"), Classes(tuple("abc"), (200, 50, 10)), PlainMethod.Options())
    crops = torch.from_numpy(np.concatenate([five_crops(image, 28, 3) for image in pixels]))  # 3 of 28 as 24 of 224
    with torch.no_grad():
        logits = method.eval().logits((crops / 255 - 0.5) / 0.2).view(11, 5, 3).mean(1)
    expected = F.cross_entropy(logits, torch.arange(11) % 3).item()
    assert evaluate_crops(method, images, loader, batch_size=16)["nll"] == pytest.approx(expected, rel=1e-5)


def test_eval_shows_both_protocols(longtail, small_set, tmp_path):
    options = ["--backbone", "resnet8", "--epochs", 1, "--no-report", "--out", tmp_path / "run"]
    assert longtail("train", "ce", small_set, *options)[0] == 0
    code, shown, _ = longtail("eval", tmp_path / "run", "--crops")
    assert code == 0
    assert "test-time ensembling, in %" in shown
    assert "mean of five crops" in shown
