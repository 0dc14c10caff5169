"""Weights from files of every kind, and what is said of them."""

from __future__ import annotations

import pickle

import pytest
import safetensors.torch
import torch

from longtail.errors import LongtailError, UsageError
from longtail.models import weights
from longtail.models.torchvision_compat import ensure_torchvision
from longtail.models.weights import at_hand, check_reachable, load_weights, read_weights, wheel_file


@pytest.fixture(scope="module")
def timm():
    ensure_torchvision()
    import timm

    return timm


@pytest.fixture
def trained(timm):
    """A network with a classifier of seven classes, and a state_dict of it."""
    torch.manual_seed(1)
    return timm.create_model("test_resnet", num_classes=7).state_dict()


def network(timm, **options):
    torch.manual_seed(2)
    return timm.create_model("test_resnet", num_classes=0, **options)


def assert_loaded(model, state):
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "backbone."])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_of_every_style(timm, trained, tmp_path, nested, prefix, suffix):
    file = tmp_path / f"weights.{suffix}"
    state = {prefix + name: value for name, value in trained.items()}
    if suffix == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save({nested: state, "epoch": 3} if nested else state, file)
    model = network(timm)
    told = load_weights(model, read_weights(file), "FILE")
    assert_loaded(model, trained)
    assert told == f"{len(trained) - 2} of {len(trained)} tensors of FILE; not used: fc.bias, fc.weight"


def test_other_names_are_matched_by_order_and_shape(timm, trained):
    state = {f"layers.{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(trained.items())}
    model = network(timm)
    told = load_weights(model, state, "FILE")
    assert_loaded(model, trained)
    assert "by order and shape, for their names are others" in told


def test_other_names_of_another_kind_are_not_matched(timm, trained):
    """A running mean has the shape of a bias: taking one for the other would be wrong without a word."""
    names = [f"layers.{i}.{name.rpartition('.')[2]}" for i, name in enumerate(trained)]
    norm = next(i for i, name in enumerate(names) if name.endswith("running_mean"))
    names[norm], names[norm - 1] = (f"layers.{norm}.bias", f"layers.{norm - 1}.running_mean")
    with pytest.raises(UsageError, match="does not fit this backbone: it has no 'conv1"):
        load_weights(network(timm), dict(zip(names, trained.values(), strict=True)), "FILE")


def test_grey_images_take_the_sum_of_the_first_convolution(timm, trained):
    model = network(timm, in_chans=1)
    load_weights(model, trained, "FILE")
    first = model.pretrained_cfg["first_conv"] + ".weight"
    torch.testing.assert_close(model.state_dict()[first], trained[first].sum(1, keepdim=True))


def test_torchvision_resnet_is_read(timm):
    from torchvision.models import resnet18

    theirs = resnet18()
    model = timm.create_model("resnet18", num_classes=0).eval()
    load_weights(model, theirs.state_dict(), "FILE")
    theirs.fc = torch.nn.Identity()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model(images), theirs.eval()(images))


def test_what_does_not_fit_is_refused(timm, trained):
    model = network(timm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = next(iter(before))
    with pytest.raises(UsageError, match=rf"it has no '{first}' \(1 of its {len(before)} tensors are missing\)"):
        load_weights(model, {k: v for k, v in trained.items() if k != first}, "FILE")
    with pytest.raises(UsageError, match=rf"'{first}' is \[2\], expected \["):
        load_weights(model, {**trained, first: torch.zeros(2)}, "FILE")
    assert_loaded(model, before)


@pytest.mark.parametrize("content", [b"no weights", b"", pickle.dumps(print)])
def test_other_files_are_refused(tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(
        UsageError, match=r"weights.pth (is neither a safetensors file nor|holds more than weights, or)"
    ):
        read_weights(file)
    with pytest.raises(UsageError, match="does not exist"):
        read_weights(tmp_path / "absent.pth")
    torch.save({"epoch": 3}, file)
    with pytest.raises(UsageError, match="holds no weights by name"):
        read_weights(file)


def test_wheel_is_timms_network(timm):
    """The order of its tensors is timm's, though the names are others: checked with the accuracy of features in benchmarks."""
    file = wheel_file("tf_efficientnet_lite0.in1k")
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    told = load_weights(model, read_weights(file), "FILE")
    assert told.startswith("294 of 296 tensors of FILE, by order and shape")
    assert wheel_file("resnet18") is None
    assert "tf_efficientnet_lite0" in at_hand()


def test_offline_is_told_at_once(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights, "at_hand", lambda: ["here"])
    with pytest.raises(LongtailError, match=r"'resnet18' are not on this machine.*HF_HUB_OFFLINE.*\(here\)"):
        check_reachable("resnet18")
