"""Specs, per-image draws, and the policies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from longtail.data import policies
from longtail.data.augment import POLICIES, Augment, ResizedCrop, parse
from longtail.data.draws import Draws
from longtail.errors import UsageError
from longtail.models.torchvision_compat import ensure_torchvision

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def copies(batch, channels=3, side=32):
    """The same image many times over: what then differs was drawn per image."""
    image = torch.randint(256, (1, channels, side, side), generator=torch.Generator().manual_seed(5))
    return image.to(torch.uint8).repeat(batch, 1, 1, 1)


def run(spec, images, size=32, seed=0):
    channels = images.shape[1]
    return Augment(spec, size, MEAN[:channels], STD[:channels])(images, torch.Generator().manual_seed(seed))


def test_none_normalises():
    images = copies(2)
    expected = (images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(run("none", images), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_draws_for_each_image(name, channels, size):
    images = copies(8, channels, size + 6)
    before = images.clone()
    result = run(name, images, size)
    assert result.shape == (8, channels, size, size)
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    assert torch.equal(images, before)
    assert torch.equal(result, run(name, images, size))
    if name != "none":
        assert len({tuple(image.flatten().tolist()) for image in result}) > 1
        assert not torch.equal(result, run(name, images, size, seed=1))


@pytest.mark.parametrize(
    "spec", ["autoaugment:cifar10", "autoaugment:cifar10:released", "randaugment:2:10", "timm_randaugment:2:10"]
)
def test_images_of_a_batch_get_different_policies(spec):
    result = run(spec, copies(256))
    different = len({image.numpy().tobytes() for image in result})
    assert different > (20 if spec.startswith("auto") else 60)


def test_a_batch_equals_its_images_one_by_one():
    """Grouping by operation must not mix images up."""
    images = torch.randint(256, (64, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    operations, strengths, signs = policies.draw_rand_augment(Draws(64, torch.Generator().manual_seed(2)), 3, 7.0)
    together = policies.apply_policy(images, operations, strengths, signs)
    alone = [
        policies.apply_policy(images[i : i + 1], operations[i : i + 1], strengths[i : i + 1], signs[i : i + 1])
        for i in range(64)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_auto_augment_draws_the_published_table():
    """Sub-policies are uniform, and each operation has its probability, magnitude and both signs."""
    ensure_torchvision()
    from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy

    ours = [[(name.replace("_", "").replace("colour", "color"), p) for name, p, _ in pair] for pair in policies.CIFAR10]
    theirs = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    assert ours == [[(name.lower(), p) for name, p, _ in pair] for pair in theirs]
    for pair, reference in zip(policies.CIFAR10, theirs, strict=True):
        assert all(r is None or r == m for (_, _, m), (_, _, r) in zip(pair, reference, strict=True))

    operations, _, signs = policies.draw_auto_augment(Draws(100_000, torch.Generator().manual_seed(0)))
    expected = np.zeros((2, len(policies.NAMES)))
    for pair in policies.CIFAR10:
        for slot, (name, p, _) in enumerate(pair):
            expected[slot, policies.NAMES.index(name)] += p / 25
            expected[slot, 0] += (1 - p) / 25
    for slot in range(2):
        observed = operations[:, slot].bincount(minlength=len(policies.NAMES)) / 100_000
        np.testing.assert_allclose(observed, expected[slot], atol=0.006)
    assert signs.mean().abs() < 0.01


def test_parameters_have_the_published_ranges():
    """Strength 0 is the least, 1 the most; at 331 pixels the strongest shift is 150."""
    one = torch.ones(1, dtype=torch.float64)
    strongest = {name: parameter(one, one, 331).item() for name, (_, parameter) in policies.SPACE.items()}
    assert strongest["shear_x"] == pytest.approx(0.3)
    assert strongest["translate_y"] == 150
    assert strongest["rotate"] == 30
    assert strongest["contrast"] == pytest.approx(1.9)
    assert strongest["posterize"] == 4
    assert strongest["solarize"] == 0
    assert policies.SPACE["solarize"][1](0 * one, one, 331) == 256
    assert policies.SPACE["posterize"][1](7 / 9 * one, one, 32) == 5


def test_auto_augment_as_released_turns_to_one_side_and_shifts_by_parts_of_a_pixel():
    sevenths, signs = torch.full((2,), 7 / 9, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    released = {name: parameter(sevenths, signs, 32).tolist() for name, (_, parameter) in policies.RELEASED.items()}
    paper = {name: parameter(sevenths, signs, 32).tolist() for name, (_, parameter) in policies.SPACE.items()}
    assert released["rotate"] == pytest.approx([30 * 7 / 9] * 2)
    assert (
        released["translate_x"]
        == released["translate_y"]
        == pytest.approx([7 / 9 * 32 * 150 / 331, -7 / 9 * 32 * 150 / 331])
    )
    changed = {"rotate", "translate_x", "translate_y"}
    assert all(released[name] == paper[name] for name in paper.keys() - changed)
    assert list(policies.RELEASED) == list(policies.NAMES)  # the drawn places mean the same operations


TIMM_NAMES = {
    "AutoContrast": "autocontrast", "Equalize": "equalize", "Invert": "invert", "Rotate": "rotate",
    "Posterize": "posterize", "Solarize": "solarize", "SolarizeAdd": "solarize_add", "Color": "colour",
    "Contrast": "contrast", "Brightness": "brightness", "Sharpness": "sharpness", "ShearX": "shear_x",
    "ShearY": "shear_y", "TranslateXRel": "translate_x", "TranslateYRel": "translate_y",
}  # fmt: skip


def test_timm_rand_augment_is_timms_to_the_nearest_pixel():
    """The same operations, and at every level the image that timm makes of it, whichever sign timm drew."""
    ensure_torchvision()
    timm = pytest.importorskip("timm.data.auto_augment")
    assert {TIMM_NAMES[name] for name in timm._RAND_TRANSFORMS} == policies.TIMM.keys() - {"identity"}
    image = torch.randint(256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    for theirs, ours in TIMM_NAMES.items():
        operation, parameter = policies.TIMM[ours]
        for level in (2.5, 5.0, 9.7, 10.0):  # below, timm asks Pillow for a posterisation that it refuses
            strength = torch.tensor([level / 10], dtype=torch.float64)
            signed = [operation(image, parameter(strength, s * torch.ones(1), 32))[0] for s in (1, -1)]
            arguments = (timm.LEVEL_TO_ARG[theirs] or (lambda *_: ()))(level, {})
            made = timm.NAME_TO_OP[theirs](picture, *arguments, resample=Image.NEAREST, fillcolor=(128,) * 3)
            expected = torch.from_numpy(np.array(made)).permute(2, 0, 1)
            assert any(torch.equal(one, expected) for one in signed), (theirs, level)


def test_timm_rand_augment_applies_half_and_draws_its_magnitude():
    draws = Draws(100_000, torch.Generator().manual_seed(0))
    operations, strengths, signs = policies.draw_timm_rand_augment(draws, 2, 8, 0.5)
    shares = operations.flatten().bincount(minlength=16) / operations.numel()
    np.testing.assert_allclose(shares, [0.5] + [0.5 / 15] * 15, atol=0.003)
    assert strengths.mean() == pytest.approx(0.8, abs=1e-3)
    assert strengths.std() == pytest.approx(0.05, abs=1e-3)
    assert strengths.max() <= 1
    assert policies.draw_timm_rand_augment(draws, 1, 10, 0.5)[1].max() == 1
    assert signs.mean().abs() < 0.01


def test_crop_reaches_every_offset_of_the_padded_image():
    position = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).repeat(2000, 1, 1, 1)
    result = Augment("crop:2", 8, [0.0], [1 / 255])(position, torch.Generator().manual_seed(0)).round()
    corners = {tuple(image[0, 2:6, 2:6].flatten().tolist()) for image in result}
    assert len(corners) == 25
    assert (result == 0).any()  # black, not the mean, where the image ends


def test_flip_and_grey_keep_to_their_chance():
    flipped = (run("flip:0.3", copies(4000)) != run("none", copies(1))).flatten(1).any(1).float().mean()
    assert flipped.item() == pytest.approx(0.3, abs=0.03)
    grey = Augment("grey:0.2", 32, (0.0,) * 3, (1.0,) * 3)(copies(4000), torch.Generator())
    assert (grey[:, 0] == grey[:, 1]).flatten(1).all(1).float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_rotation_is_uniform_to_either_side():
    """A dot to the right of the centre tells the angle."""
    images = torch.zeros(2000, 1, 101, 101, dtype=torch.uint8)
    images[:, :, 49:52, 95:] = 255
    turned = Augment("rotation:20", 101, [0.0], [1.0])(images, torch.Generator().manual_seed(0))[:, 0]
    row = torch.arange(101.0)[:, None]
    heights = 50 - (turned * row).sum((1, 2)) / turned.sum((1, 2))
    angles = torch.asin(heights / 47.5).rad2deg()
    assert angles.abs().max() < 21
    assert angles.mean().abs() < 1
    assert angles.std().item() == pytest.approx(40 / 12**0.5, abs=0.6)


def test_resized_crop_boxes_are_uniform_in_area_and_inside():
    crop = ResizedCrop(0.2, 1.0)
    draws = crop.draw(Draws(4000, torch.Generator().manual_seed(0)))
    for height, width in ((200, 200), (150, 300)):
        top, left, high, wide = crop.boxes(draws, height, width).T
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + high <= height).all()
        assert (left + wide <= width).all()
        share, ratio = high * wide / (height * width), wide / high
        assert share.min() > 0.19
        assert ratio.min() > 0.72
        assert ratio.max() < 1.37
        assert top.min() == 0
        assert (top + high == height).any()
    small = (crop.boxes(draws, 200, 200)[:, 2:].prod(1) / 200**2 < 0.4).float().mean()
    assert small.item() > 0.25  # uniform in 0.2..1 before the few that do not fit are redrawn: a quarter


def test_boxes_that_cannot_fit_fall_back_to_the_middle():
    crop = ResizedCrop(1.0, 1.0)
    boxes = crop.boxes(crop.draw(Draws(5, torch.Generator())), 10, 100)
    assert boxes.tolist() == [[0, 43, 10, 13]] * 5


def test_jitter_changes_only_the_chosen_and_stays_in_range():
    result = run("jitter:0.4:0.4:0.4:0.1:0.5", copies(1000))
    changed = (result != run("none", copies(1))).flatten(1).any(1).float().mean()
    assert changed.item() == pytest.approx(0.5, abs=0.06)


def test_reflected_padding_is_that_of_torch():
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8)
    result = Augment("crop:3:reflect", 8, [0.0] * 3, [1 / 255] * 3)(images, torch.Generator().manual_seed(0)).round()
    padded = torch.nn.functional.pad(images.float(), (3,) * 4, mode="reflect")
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).flatten(2, 3)  # [40, 3, 49, 8, 8]
    found = (windows == result[:, :, None]).flatten(3).all(3).all(1)  # of each image, the windows that it may be
    assert (found.sum(1) == 1).all()
    assert found.float().argmax(1).unique().numel() > 20


def test_black_cutout_is_black_before_normalisation():
    images = torch.full((50, 3, 16, 16), 200, dtype=torch.uint8)
    result = Augment("cutout:8:black", 16, [0.5] * 3, [0.25] * 3)(images, torch.Generator().manual_seed(0))
    hidden = result == -2.0  # (0 - 0.5) / 0.25
    assert ((result - (200 / 255 - 0.5) / 0.25).abs() < 1e-5).logical_xor(hidden).all()
    assert hidden[:, 0].sum((1, 2)).min() >= 16
    assert hidden[:, 0].sum((1, 2)).max() == 64


def test_cutout_comes_after_normalisation():
    result = run("cutout:16", copies(50))
    hidden = (result == 0).all(1).flatten(1).sum(1)
    assert hidden.max() == 16 * 16
    assert hidden.min() >= 8 * 8


def test_policies_adapt_to_the_size():
    assert [type(op).__name__ for op in parse("weak", 32)] == ["Crop", "Flip"]
    assert [type(op).__name__ for op in parse("weak", 224)] == ["ResizedCrop", "Flip"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("crop:4,flop", "Unknown augmentation 'flop'. Did you mean 'flip'"),
        ("simaug", "Did you mean 'simaugment'"),
        ("crop", "'crop' in 'crop' has 0 arguments; expected crop:padding:\\[fill\\]"),
        ("flip:0.5:2", r"has 2 arguments; expected flip:\[prob\]"),
        ("crop:x", "padding is 'x', expected int"),
        ("crop:-1", "padding is -1; expected 0 to 1,000,000"),
        ("crop:4:white", "Unknown fill in augmentation 'crop:4:white' 'white'. Known: black, reflect"),
        ("crop:33", "33 pixels are more than an image of 32 x 32 has"),
        ("blur:1:0.1:33", "33 pixels are more than an image of 32 x 32 has"),
        ("blur:1:nan", "low is nan; expected 0 to 1,000,000"),
        ("jitter:1:1:inf:0", "saturation is inf"),
        ("flip:nan", "prob is nan; expected 0 to 1"),
        ("grey:3", "prob is 3; expected 0 to 1"),
        ("weak,flip", "'weak' is a whole policy: give it alone"),
        ("xyz", "jitter, none, randaugment, resized_crop"),
        ("cutout:8,flip", "cutout works on normalised images, so it must be the last"),
        ("autoaugment:imagenet", "Unknown AutoAugment policy 'imagenet'"),
        ("resized_crop:0.5:0.2", "expected 0 < low <= high <= 1"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(UsageError, match=message):
        parse(spec, 32)
