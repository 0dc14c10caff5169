"""What the plain method's options do: class weights by epoch, mixing, where biases start, and which are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from method_cases import CLASSES, COUNTS, Case
from torch import Tensor

from longtail.classes import Classes
from longtail.config import validate
from longtail.data.samplers import ClassIndex
from longtail.data.streams import Stream
from longtail.errors import UsageError
from longtail.losses.class_weights import effective_number_weights
from longtail.methods import method_class
from longtail.methods.base import Batch, Clock
from longtail.methods.mixing import MixOptions, _is_on, mix
from longtail.methods.plain import PlainMethod, PlainOptions
from longtail.models import build_backbone

COUNT_TENSOR = torch.tensor(COUNTS)


def clock(epoch: int, epochs: int = 200, seed: int = 0) -> Clock:
    return Clock("train", epoch, epochs, 0, 1, torch.Generator().manual_seed(seed))


def batch(images: int = 8) -> dict[str, Batch]:
    torch.manual_seed(0)
    views = [torch.rand(images, 3, 8, 8) for _ in range(2)]
    labels = [torch.arange(images) % 6, torch.arange(images) % 2 + 4]
    names = ("main", "foreground")
    return {name: Batch((v,), y, y) for name, v, y in zip(names, views, labels, strict=True)}


@pytest.mark.parametrize(("epoch", "weighted"), [(0, False), (159, False), (160, True), (199, True)])
def test_deferred_weights_begin_at_their_share_of_the_epochs(epoch: int, weighted: bool) -> None:
    options = PlainOptions(reweight="deferred", weight_mean="batch")
    method = PlainMethod(build_backbone("resnet8"), CLASSES, options).eval()
    main = batch()["main"]
    (value,) = method.losses({"main": main}, clock(epoch)).values()
    losses = F.cross_entropy(method.logits(main.views[0]), main.labels, reduction="none")
    weights = effective_number_weights(COUNT_TENSOR, 0.9999)[main.labels] if weighted else 1.0
    torch.testing.assert_close(value, (weights * losses).mean())


def test_cmo_is_on_in_the_published_epochs(golden_file: Any) -> None:
    v = golden_file("cmo_sampling")
    options = MixOptions(mix="cmo", mix_prob=1.0)
    on = [_is_on(options, clock(epoch)) for epoch in v["epoch"].tolist()]
    assert on == v["mixing_is_on"].astype(bool).tolist()
    half = [_is_on(MixOptions(mix="cmo"), clock(100, seed=seed)) for seed in range(2000)]
    assert np.mean(half) == pytest.approx(float(v["mixing_probability"]), abs=0.04)


@pytest.fixture
def golden_file() -> Any:
    import os
    from pathlib import Path

    folder = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[1] / "golden"))
    return lambda name: dict(np.load(folder / f"{name}.npz", allow_pickle=False))


def probabilities(counts: np.ndarray, stream: Stream, progress: float = 0.0) -> np.ndarray:
    labels = np.repeat(np.arange(len(counts)), counts)
    return ClassIndex(labels, len(counts)).class_probabilities(stream, progress).numpy()


def test_samplers_draw_classes_as_the_releases_do(golden_file: Any) -> None:
    v = golden_file("sampling_probabilities")
    counts = v["class_counts"]
    for sampler, key in (("balanced", "class_balanced"), ("square_root", "square_root")):
        np.testing.assert_allclose(probabilities(counts, Stream(("",), sampler)), v[key], rtol=1e-6)
    np.testing.assert_allclose(probabilities(counts, Stream(("",), "power", q=0.0)), v["instance_balanced"], rtol=1e-6)
    for epoch in v["epoch"].tolist():
        ours = probabilities(counts, Stream(("",), "progressive"), epoch / (int(v["epochs"]) - 1))
        np.testing.assert_allclose(ours, v["progressively_balanced"][epoch], rtol=1e-6)


@pytest.mark.parametrize(("q", "key"), [(0.5, "05"), (1.0, "10"), (2.0, "20")])
def test_cmo_draws_its_foreground_as_released(q: float, key: str, golden_file: Any) -> None:
    v = golden_file("cmo_sampling")
    ours = probabilities(v["class_counts"], Stream(("",), "power", q=q))
    np.testing.assert_allclose(ours, v[f"class_probability_power{key}"], rtol=1e-6)


def test_bbn_draws_its_second_stream_as_released(golden_file: Any) -> None:
    v = golden_file("bbn_reversed_sampling")
    ours = probabilities(v["class_counts"], Stream(("",), "reversed"))
    np.testing.assert_allclose(ours, v["class_probabilities"], rtol=1e-6)
    drawn = np.searchsorted(np.cumsum(ours), v["uniform_numbers"])
    np.testing.assert_array_equal(drawn, v["classes_drawn"])


@pytest.mark.parametrize("name", ["mixup", "cutmix", "remix", "remix_cutmix", "cmo"])
def test_mixed_images_are_made_of_those_that_their_labels_name(name: Any) -> None:
    """Where an image is constant in its label's colour, the mixture's mean colour is the shares' (but for Remix's rule)."""
    given = batch()
    coloured = {
        key: Batch((b.labels[:, None, None, None].expand(-1, 3, 8, 8).float(),), b.labels, b.index)
        for key, b in given.items()
    }
    mixed = mix(MixOptions(mix=name, mix_prob=1.0), coloured, clock(100), torch.ones(6, dtype=torch.int64))
    assert mixed.shares is not None
    torch.testing.assert_close(mixed.shares.sum(1), torch.ones(8))
    torch.testing.assert_close(mixed.images.mean((1, 2, 3)), (mixed.labels * mixed.shares).sum(1))
    assert torch.equal(mixed.labels[:, 0], given["main"].labels)
    if name == "cmo":
        assert torch.equal(mixed.labels[:, 1], given["foreground"].labels)
    else:
        assert sorted(mixed.labels[:, 1].tolist()) == sorted(given["main"].labels.tolist())


def test_remix_gives_the_label_to_the_rarer_class() -> None:
    seen = set()
    for seed in range(20):
        mixed = mix(MixOptions(mix="remix"), batch(), clock(0, seed=seed), COUNT_TENSOR)
        assert mixed.shares is not None
        for (own, partner), share in zip(mixed.labels.tolist(), mixed.shares[:, 0].tolist(), strict=True):
            if share in (0.0, 1.0):
                winner, loser = (own, partner) if share == 1 else (partner, own)
                assert COUNTS[winner] * 3 <= COUNTS[loser]
                seen.add(share)
    assert seen == {0.0, 1.0}


@pytest.mark.parametrize("loss", ["bce", "sigmoid_focal", "ce"])
def test_yes_no_losses_start_from_the_prior_and_do_not_decay_it(loss: Any) -> None:
    method = PlainMethod(build_backbone("resnet8"), CLASSES, PlainOptions(loss=loss))
    bias: Tensor = method.classifier.bias  # type: ignore[assignment]
    groups = method.parameter_groups(dict(method.named_parameters()))
    assert sum(len(group["params"]) for group in groups) == len(list(method.parameters()))
    if loss == "ce":
        assert (len(groups), bias.abs().max()) == (1, 0)
        return
    torch.testing.assert_close(bias.sigmoid().detach(), torch.full((6,), 1 / 6))
    assert [group.get("weight_decay") for group in groups if any(p is bias for p in group["params"])] == [0.0]


BAD = {
    "ce gamma=2.0": "gamma has no effect with loss=ce: it belongs to focal and sigmoid_focal",
    "ce tau=2.0": "tau has no effect with loss=ce",
    "ce scale=3.0": "scale has no effect with classifier=linear",
    "ce q=0.5": "q has no effect with sampler=instance: it belongs to power",
    "ce defer=0.5": "defer has no effect with reweight=none",
    "ce mix_prob=0.5": "mix_prob has no effect with mix=none: choose another mix",
    "mixup remix_kappa=4.0": "remix_kappa has no effect with mix=mixup: it belongs to remix and remix_cutmix",
    "remix foreground_q=2.0": "foreground_q has no effect with mix=remix: it belongs to cmo",
    "ce loss=bce classifier=cosine": "needs a bias, and classifier=cosine has none",
}


@pytest.mark.parametrize("given", BAD)
def test_options_without_effect_are_refused(given: str) -> None:
    name, *pairs = given.split()
    options = {
        key: float(value) if value[0].isdigit() else value for key, _, value in (p.partition("=") for p in pairs)
    }
    with pytest.raises(UsageError, match=BAD[given]):
        validate(method_class(name).Options, options, f"options of {name}")


def test_every_other_default_is_accepted_when_said_again() -> None:
    """A run folder holds all options, which must be read back."""
    for name in ("ce", "ldam", "class_balanced", "remix", "cmo", "logit_adjustment", "focal"):
        cls = method_class(name)
        assert cls.Options.model_validate(cls.Options().model_dump()) == cls.Options()


def test_bbn_reads_both_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    method: Any = Case("bbn").build(torch.float32).eval()
    images = torch.rand(4, 3, 8, 8)
    maps = method.backbone(images, stop=len(method.backbone.stages))
    both = torch.cat((method.conventional(maps), method.rebalancing(maps)), 1)
    torch.testing.assert_close(method.logits(images), method.classifier(both))


@pytest.mark.parametrize(("classes", "parameters"), [(10, 538_778), (100, 550_388)])
def test_bbn_has_the_released_parameters(classes: int, parameters: int) -> None:
    cls = method_class("bbn")
    method = cls(build_backbone("resnet32"), Classes(tuple(map(str, range(classes))), (5,) * classes), cls.Options())
    assert sum(parameter.numel() for parameter in method.parameters()) == parameters
    bound = 1 / math.sqrt(128)
    weight: Tensor = method.classifier.weight  # type: ignore[union-attr, assignment]
    assert weight.abs().max() <= bound


@pytest.mark.parametrize(("epochs", "said"), [(7, True), (8, False)])
def test_a_mixing_that_would_never_be_on_is_said(epochs: int, said: bool, caplog: pytest.LogCaptureFixture) -> None:
    options = PlainOptions(mix="cmo", mix_prob=1.0)
    PlainMethod(build_backbone("resnet8"), CLASSES, options).before_epoch(clock(0, epochs))
    assert ("off in every one of the 7 epochs" in caplog.text) == said
    assert any(_is_on(options, clock(epoch, epochs)) for epoch in range(epochs)) != said
