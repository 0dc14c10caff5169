import subprocess
import sys

import pytest
import torch

from longtail.errors import LongtailError, UsageError
from longtail.models import backbone_names, build_backbone, check_image_size, count_parameters
from longtail.models import timm_backbone as timm_backbone_module
from longtail.models.cifar_resnet import BasicBlock
from longtail.models.heads import LinearClassifier
from longtail.models.timm_backbone import timm_backbone
from longtail.models.torchvision_compat import ensure_torchvision


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [  # the CIFAR ones to the digit as commonly counted for option A; the ImageNet ones as torchvision documents them
        ("resnet20", 10, 269_722),
        ("resnet32", 10, 464_154),
        ("resnet44", 10, 658_586),
        ("resnet56", 10, 853_018),
        ("resnet32_w64", 10, 7_386_186),
        ("resnet34_cifar", 10, 21_797_672 - 1000 * 513 + 10 * 513 - 3 * 64 * (49 - 9)),
        ("resnet50", 1000, 25_557_032),
        ("resnext50_32x4d", 1000, 25_028_904),
    ],
)
def test_parameter_counts(name, classes, parameters):
    backbone = build_backbone(name)
    assert count_parameters(backbone) + count_parameters(LinearClassifier(backbone.dim, classes)) == parameters


def test_shortcut_is_every_second_pixel_between_new_channels_of_zeros():
    block = BasicBlock(4, 8, stride=2)
    torch.nn.init.zeros_(block.bn2.weight)  # the residual branch is silent: what comes out is the shortcut
    x = torch.rand(2, 4, 5, 5)
    expected = torch.zeros(2, 8, 3, 3)
    for c in range(4):
        for i in range(3):
            for j in range(3):
                expected[:, 2 + c, i, j] = x[:, c, 2 * i, 2 * j]
    assert torch.equal(block(x), expected)


def test_cifar_stages_halve_the_image_and_double_the_width():
    x = torch.rand(2, 3, 32, 32)
    shapes = []
    for stage in build_backbone("resnet14").stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize("name", ["resnet34_cifar", "resnext50_32x4d"])
def test_agrees_with_torchvision(name):
    ensure_torchvision()
    from torchvision import models

    backbone = build_backbone(name).eval()
    if name == "resnet34_cifar":
        reference = models.resnet34()
        reference.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        reference.maxpool = torch.nn.Identity()
    else:
        reference = models.resnext50_32x4d()
    reference.fc = torch.nn.Identity()
    stem, *layers = backbone.stages
    reference.conv1.load_state_dict(stem[0].state_dict())
    reference.bn1.load_state_dict(stem[1].state_dict())
    for i, layer in enumerate(layers, start=1):
        getattr(reference, f"layer{i}").load_state_dict(layer.state_dict())
    images = torch.rand(2, 3, 33, 40)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference.eval()(images))


def test_no_residual_branch_starts_silent():
    norms = [m for m in build_backbone("resnet50").modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(bool((norm.weight == 1).all()) for norm in norms)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("test_resnet", 5),
        ("regnetx_002", 6),
        ("test_convnext", 6),
        ("test_efficientnet", 7),
        ("test_vit", 2 + 6),
        ("vit_tiny_patch16_224", 2 + 12),
        ("test_byobnet", 1),
    ],
)
def test_timm_models_taken_apart_still_compute_the_same(name, stages):
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=0, in_chans=1).eval()
    torch.manual_seed(0)
    backbone = timm_backbone(name, in_channels=1).eval()
    height = whole.pretrained_cfg["input_size"][1]
    images = torch.rand(2, 1, height, height)
    features = backbone(images)
    torch.testing.assert_close(features, whole(images), rtol=0, atol=1e-6)
    assert features.shape == (2, backbone.dim)
    assert len(backbone.stages) == stages
    assert count_parameters(backbone) == count_parameters(whole)
    assert len(backbone.state_dict()) == len(whole.state_dict())  # nothing is saved twice
    features.square().sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())  # nothing is left unused


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet8", (8, 8)), ("resnet8", (1, 3)), ("timm:test_vit", (40, 24)), ("resnet34_cifar", (8, 9))],
)
def test_grey_images_of_any_size(name, size):
    backbone = build_backbone(name, in_channels=1)
    check_image_size(backbone, name, 1, *size)
    assert backbone.training
    assert backbone(torch.rand(2, 1, *size)).shape == (2, backbone.dim)


def test_images_too_small_are_refused():
    backbone = build_backbone("timm:test_convnext")
    with pytest.raises(
        UsageError, match=r"'timm:test_convnext' cannot take images of 8x8 pixels and 3 channels: .* Resize"
    ):
        check_image_size(backbone, "timm:test_convnext", 3, 8, 8)


def test_bf16_channels_last_stays_so_and_gives_nearly_the_same_float32_features():
    torch.manual_seed(0)
    backbone = build_backbone("resnet14")
    images = torch.rand(4, 3, 32, 32)
    exact = backbone(images)
    backbone.to(memory_format=torch.channels_last)
    backbone.precision = torch.bfloat16
    layouts = []
    for stage in backbone.stages:
        stage.register_forward_hook(
            lambda _, __, y: layouts.append((y.dtype, y.is_contiguous(memory_format=torch.channels_last)))
        )
    features = backbone(images.to(memory_format=torch.channels_last))
    assert layouts == [(torch.bfloat16, True)] * 4
    assert features.dtype == torch.float32
    assert (features - exact).norm() / exact.norm() < 0.02
    assert not torch.equal(features, exact)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet33", "Unknown backbone 'resnet33'. Did you mean 'resnet32'"),
        ("timm:resnet5O", "Unknown timm model 'resnet5O'. Did you mean 'resnet50'"),
        ("timm:", "Unknown timm model ''"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UsageError) as error:
        build_backbone(name)
    assert message in str(error.value)


def test_every_name_listed_can_be_built():
    for name in backbone_names():
        assert build_backbone(name, in_channels=1).dim > 0


def test_weights_that_cannot_be_had(monkeypatch):
    with pytest.raises(UsageError, match="no pretrained weights for backbone 'resnet32'"):
        build_backbone("resnet32", pretrained=True)
    ensure_torchvision()
    import timm

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm_backbone_module, "find_weights", lambda name, weights: None)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(LongtailError, match="'resnet50' could not be loaded: no route to host"):
        build_backbone("resnet50", pretrained=True)


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_importing_models_imports_neither_timm_nor_torchvision():
    check = python("import longtail.models, sys; print({'timm', 'torchvision'} & set(sys.modules))")
    assert check.stdout.strip() == "set()", check.stderr


def test_torchvision_imports_and_operators_are_declared_only_where_it_would_not():
    imports_by_itself = python("import torch, torchvision").returncode == 0
    check = python(
        "import longtail.models.torchvision_compat as compat\n"
        "compat.ensure_torchvision(); compat.ensure_torchvision()\n"
        "import torch, torchvision.transforms.v2\n"
        "assert torchvision.transforms.v2.functional.hflip(torch.arange(2)).tolist() == [1, 0]\n"
        "print(len(compat._declarations))"
    )
    assert check.stdout.strip() == ("0" if imports_by_itself else "1"), check.stderr


def _maps(backbone, images, stop):
    with torch.no_grad():
        return backbone.eval()(images, stop=stop)


@pytest.mark.parametrize("name", ["resnet14", "resnet34_cifar", "timm:test_convnext", "timm:test_vit"])
def test_a_backbone_is_left_and_entered_half_way(name):
    backbone = build_backbone(name).eval()
    images = torch.rand(2, 3, 160 if "timm" in name else 16, 160 if "timm" in name else 16)
    with torch.no_grad():
        for stop in range(1, len(backbone.stages) + 1):
            torch.testing.assert_close(backbone(_maps(backbone, images, stop), start=stop), backbone(images))


@pytest.mark.parametrize("name", ["resnet14", "resnet34_cifar", "resnet50", "timm:test_convnext"])
def test_a_twin_is_the_same_network_with_other_weights(name):
    torch.manual_seed(0)
    backbone = build_backbone(name)
    twin = backbone.twin()
    ours, theirs = backbone.state_dict(), twin.state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    assert not torch.equal(next(iter(ours.values())), next(iter(theirs.values())))
    late = backbone.twin(start=2)
    images = torch.rand(2, 3, 64, 64)
    assert late.eval()(_maps(backbone, images, 2)).shape == (2, backbone.dim)
    assert count_parameters(late) == sum(map(count_parameters, [*backbone.stages[2:], backbone.pool]))
    assert twin.twin().dim == backbone.dim


@pytest.mark.parametrize(
    ("name", "first", "parameters"),
    [  # RIDE's released networks with cosine heads and 100 (ResNet-32) or 1,000 classes, see docs/methods/ride.md
        ("resnet32", 2, {2: 530_512, 3: 783_856, 4: 1_037_200, 6: 1_543_888}),
        ("resnet50", 3, {3: 43_677_248, 4: 57_754_688}),
        ("resnext50_32x4d", 3, {3: 42_889_024, 4: 56_714_560}),
    ],
)
def test_narrow_experts_have_the_released_parameter_counts(name, first, parameters):
    backbone = build_backbone(name)
    expert = backbone.twin(first, width=0.75)
    shared = sum(count_parameters(stage) for stage in backbone.stages[:first])
    head = expert.dim * (100 if name == "resnet32" else 1000)
    for experts, count in parameters.items():
        assert shared + experts * (count_parameters(expert) + head) == count
    features = expert.eval()(_maps(backbone, torch.rand(2, 3, 64, 64), first))
    assert features.shape == (2, backbone.dim * 3 // 4)


def test_the_last_block_can_be_taken_off_and_doubled():
    backbone = build_backbone("resnet32").eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        whole = backbone(images)
        last = backbone.split_last_block()
        maps = backbone(images, stop=len(backbone.stages))
        torch.testing.assert_close(last(maps), whole)
    second = backbone.twin().split_last_block()
    assert count_parameters(second) == count_parameters(last) == 73_984  # BBN's, as released
    assert count_parameters(backbone) + count_parameters(last) * 2 == 537_488


@pytest.mark.parametrize(("name", "message"), [("timm:test_convnext", "another width"), ("iresnet18", "second time")])
def test_what_cannot_be_built_again(name, message):
    with pytest.raises(UsageError, match=message):
        build_backbone(name).twin(width=0.75)


def test_norms_that_are_frozen_stay_so_in_the_block_taken_off():
    backbone = build_backbone("resnet32")
    backbone.frozen = frozenset(
        name for name, module in backbone.named_modules() if isinstance(module, torch.nn.BatchNorm2d)
    )
    last = backbone.split_last_block()
    for part in (backbone, last):
        part.train()
        norms = [module for module in part.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert norms
        assert not any(norm.training for norm in norms)


def test_one_stage_networks_have_no_last_block():
    with pytest.raises(UsageError, match="no last block"):
        build_backbone("timm:test_byobnet").split_last_block()
