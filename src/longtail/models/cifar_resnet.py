"""The small ResNets of the CIFAR experiments (He et al., CVPR 2016, section 4.2) at any width."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import Backbone

CIFAR_RESNETS = {  # name: (blocks per stage, width of the first stage)
    "resnet8": (1, 16),
    "resnet14": (2, 16),
    "resnet20": (3, 16),
    "resnet32": (5, 16),
    "resnet44": (7, 16),
    "resnet56": (9, 16),
    "resnet32_w64": (5, 64),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters.

    Where the block changes the shape, the shortcut is option A of He et al.: every second pixel, and zeros for the
    channels that are new (half of them before the old ones, half after).
    """

    def __init__(self, dim_in: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim_in, dim_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim_out)
        self.conv2 = nn.Conv2d(dim_out, dim_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim_out)
        self.stride = stride
        self.before = (dim_out - dim_in) // 2
        self.after = dim_out - dim_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.stride > 1 or self.after:
            # F.pad keeps channels-last, which a concatenation with a fresh tensor of zeros need not.
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))
        return F.relu(y.add_(x), inplace=True)


def cifar_resnet(blocks: int, width: int, in_channels: int = 3, start: int = 0, share: float = 1.0) -> Backbone:
    """A ResNet of 6 `blocks` + 2 layers: a 3x3 stem, then three stages of `width`, 2 `width` and 4 `width` channels.

    The feature width is 4 `width`. Convolutions start from Kaiming's normal distribution. With `start`, only the stages
    from there on (the stem is stage 0), at `share` of their channels.
    """
    widths = [width, width, 2 * width, 4 * width]
    widths[start:] = [round(share * channels) for channels in widths[start:]]
    stages: list[nn.Module] = []
    for stage, dim_out in enumerate(widths):
        if stage < start:
            continue
        if stage == 0:
            stem = nn.Conv2d(in_channels, dim_out, 3, padding=1, bias=False)
            stages.append(nn.Sequential(stem, nn.BatchNorm2d(dim_out), nn.ReLU(inplace=True)))
            continue
        first = BasicBlock(widths[stage - 1], dim_out, stride=1 if stage == 1 else 2)
        stages.append(nn.Sequential(first, *(BasicBlock(dim_out, dim_out, 1) for _ in range(blocks - 1))))
    build = partial(cifar_resnet, blocks, width, in_channels)
    backbone = Backbone(stages, widths[-1], build=build)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return backbone
