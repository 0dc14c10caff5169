"""Mixing and its targets against the authors' code: GLMC, CMO, MixUp, Remix."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from longtail.data.mixing import area_left, cutmix, cutmix_box, draw_lambda, mixup, remix_share, soft_target
from longtail.losses.class_weights import class_weights
from longtail.losses.classifier import ClassifierLoss


def read_rows(name: str, columns: str) -> list[list[float]]:
    """In float64, for a rounded lambda can move an edge."""
    folder = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent))
    with np.load(folder / f"{name}.npz") as arrays:
        assert " ".join(arrays["columns"]) == columns
        return arrays["rows"].tolist()


def test_cutmix_boxes():
    rows = read_rows("glmc_cutmix_bbox", "lam dim2 dim3 centre2 centre3 lo2 lo3 hi2 hi3")
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


def test_cmo_boxes_and_the_area_they_leave():
    columns = "lam dim2 dim3 centre2 centre3 lo2 lo3 hi2 hi3 lam_of_area"
    for lam, *integers, left in read_rows("cmo_bbox", columns):
        height, width, row, column, *expected = map(int, integers)
        box = cutmix_box(lam, height, width, (row, column), "floor")
        assert box == tuple(expected)
        assert area_left(box, height, width) == pytest.approx(left, abs=1e-12)


def test_cmo_images(golden):
    v = golden("cmo_mix")
    box = tuple(v["box_lo2_lo3_hi2_hi3"].tolist())
    assert torch.equal(cutmix(v["background_images"], v["foreground_images"], box), v["mixed_images"])
    assert area_left(box, 10, 10) == pytest.approx(v["lam_of_area"].item(), abs=1e-6)


def test_mixup_within_a_batch(golden, assert_close_relative):
    v = golden("mixup")
    lam, partner = v["lam"].item(), v["partner_index"]
    assert_close_relative(mixup(v["images"], v["images"][partner], lam), v["mixed_images"])
    z = v["logits"].requires_grad_()
    labels = torch.stack((v["labels"], v["labels"][partner]), 1)
    loss = ClassifierLoss("ce", torch.ones(10))(z, labels, torch.tensor([[lam, 1 - lam]]))
    loss.backward()
    assert_close_relative(loss, v["loss"])
    assert_close_relative(z.grad, v["grad_logits"])


def test_remix_rule():
    for own, partner, lam, expected in read_rows("remix_rule", "n_own n_partner lam label_lam"):
        share = remix_share(torch.tensor([own]), torch.tensor([partner]), lam)
        assert share.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["remix_lam02", "remix_lam07"])
def test_remix_of_a_batch(name, golden, assert_close_relative):
    v = golden(name)
    lam, counts, labels = v["lam"].item(), v["class_counts"], v["labels"]
    others = labels[v["partner_index"]]
    assert_close_relative(mixup(v["images"], v["images"][v["partner_index"]], lam), v["mixed_images"])
    share = remix_share(counts[labels], counts[others], lam, v["kappa"].item(), v["tau"].item())
    assert_close_relative(share, v["label_lam"])
    z = v["logits"].requires_grad_()
    loss = ClassifierLoss("ce", counts)(z, torch.stack((labels, others), 1), torch.stack((share, 1 - share), 1))
    loss.backward()
    assert_close_relative(loss, v["loss"])
    assert_close_relative(z.grad, v["grad_logits"])


def test_lambda_is_beta_distributed():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw_lambda(0.5, generator) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.var(correction=0) == pytest.approx(1 / 8, abs=0.01)  # 1 / (4 (2 a + 1))
