"""GLMC's mixing and soft targets against its authors' code."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from longtail.data.mixing import class_weights, cutmix, cutmix_box, mixup, soft_target


def test_cutmix_boxes():
    folder = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent))
    # in float64, for a rounded lambda can move an edge
    with np.load(folder / "glmc_cutmix_bbox.npz") as arrays:
        assert " ".join(arrays["columns"]) == "lam dim2 dim3 centre2 centre3 lo2 lo3 hi2 hi3"
        rows = arrays["rows"].tolist()
    assert len(rows) > 0
    for lam, *integers in rows:
        height, width, row, column, *expected = map(int, integers)
        assert cutmix_box(lam, height, width, (row, column)) == tuple(expected)


def test_mixed_images_and_targets(golden, assert_close_relative):
    v = golden("glmc_mix")
    lam, labels, classes = v["lam"].item(), (v["instance_labels"], v["inverse_labels"]), len(v["class_counts"])
    box = tuple(v["bbox_lo2_lo3_hi2_hi3"].tolist())
    assert_close_relative(mixup(v["instance_view1"], v["inverse_view1"], lam), v["mixup_images"], 1e-6)
    assert torch.equal(cutmix(v["instance_view2"], v["inverse_view2"], box), v["cutmix_images"])
    weights = class_weights(v["class_counts"], v["label_weighting"].item())
    assert_close_relative(weights, v["class_weights"], 1e-6)
    assert_close_relative(soft_target(*labels, lam, classes), v["soft_target"], 1e-6)
    assert_close_relative(soft_target(*labels, lam, classes, weights), v["weighted_soft_target"], 1e-6)
