import numpy as np
import pytest
import torch
from torch.nn import functional as F

from longtail.classes import Classes
from longtail.data.images import ArraySet
from longtail.data.loaders import build_loader
from longtail.engine.evaluate import evaluate, evaluate_flipped
from longtail.methods.plain import PlainMethod
from longtail.models import build_backbone


def test_plain_and_flipped_scores_are_those_of_the_logits_by_hand():
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (23, 16, 16, 3), dtype=np.uint8)
    images = ArraySet("toy", tuple("abc"), np.arange(23) % 3, pixels, "test")
    loader = build_loader(
        images, device="cpu", channels=3, image_size=None, mean=(0.5,) * 3, std=(0.2,) * 3, budget_bytes=10**9
    )
    method = PlainMethod(build_backbone("resnet8"), Classes(tuple("abc"), (200, 50, 10)), PlainMethod.Options())

    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.2
    with torch.no_grad():
        plain, mirrored = method.eval().logits(x), method.logits(x.flip(3))
    labels = torch.arange(23) % 3
    expected = [F.cross_entropy(logits, labels).item() for logits in (plain, (plain + mirrored) / 2)]
    assert expected[0] != pytest.approx(expected[1])

    method.train()
    both = evaluate_flipped(method, loader, batch_size=5)
    assert [metrics["nll"] for metrics in both] == pytest.approx(expected)
    assert evaluate(method, loader, batch_size=4)["nll"] == pytest.approx(expected[0])
    assert method.training
