"""Image operations on a batch: uint8 [B, C, H, W] in and out, one parameter per image.

Parameters are CPU tensors [B], because they are drawn there; they reach the images' device without a synchronisation.
Where Pillow has the operation, the result is Pillow's, bit by bit. C is 1 or 3; on grey images the colour operations do
nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 128  # what the AutoAugment and RandAugment papers put where a geometric operation leaves no image


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`, without waiting for the device."""
    pinned = values.pin_memory() if device.type == "cuda" and values.device.type == "cpu" else values
    return pinned.to(device, non_blocking=True)


def per_image(values: Tensor, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`values` [B] as [B, 1, 1, 1] on the images' device."""
    return send(values.to(dtype), images.device).view(-1, 1, 1, 1)


# --- Geometry ---------------------------------------------------------------------------------------------------------


def affine(images: Tensor, matrices: Tensor, fill: int = GREY) -> Tensor:
    """Nearest-neighbour affine map: output (x, y) shows input (ax + by + c, dx + ey + f), or `fill` outside the image.

    `matrices`: float64 [B, 6] on the CPU. Coordinates are in 1/65536 pixel, as in Pillow: equality to the pixel needs
    the same rounding.
    """
    batch, channels, height, width = images.shape
    a, b, c, d, e, f = matrices.T
    fixed = torch.stack((a, b, c + (a + b) / 2, d, e, f + (d + e) / 2), 1).mul(65536).add(0.5).floor().long()
    a, b, c, d, e, f = send(fixed, images.device).T[..., None, None]
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).view(batch, 1, -1)
    moved = images.flatten(2).gather(2, source.expand(-1, channels, -1)).view_as(images)
    return moved.where(inside[:, None], fill)


def _matrices(images: Tensor, **entries: Tensor) -> Tensor:
    """Identity maps with some entries (a to f) replaced."""
    matrices = torch.tensor((1.0, 0, 0, 0, 1, 0), dtype=torch.float64).repeat(len(images), 1)
    for entry, values in entries.items():
        matrices[:, "abcdef".index(entry)] = values
    return matrices


def shear_x(images: Tensor, slopes: Tensor) -> Tensor:
    """Row y moves by ``-slope * y`` pixels: the corner stays."""
    return affine(images, _matrices(images, b=slopes))


def shear_y(images: Tensor, slopes: Tensor) -> Tensor:
    """Column x moves by ``-slope * x`` pixels: the corner stays."""
    return affine(images, _matrices(images, d=slopes))


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """To the left by `pixels`."""
    return affine(images, _matrices(images, c=pixels))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Up by `pixels`."""
    return affine(images, _matrices(images, f=pixels))


def shear_x_cubic(images: Tensor, slopes: Tensor) -> Tensor:
    """As `shear_x`, each pixel between its four neighbours in the row by Pillow's cubic (Keys, 1981, with a = -1)."""
    width = images.shape[3]
    x = torch.arange(width, device=images.device, dtype=torch.float64)
    y = torch.arange(images.shape[2], device=images.device, dtype=torch.float64)[:, None]
    place = x + per_image(slopes, images, torch.float64) * (y + 0.5)  # [B, 1, H, W], from the middle of the first pixel
    first, inside = place.floor(), (place >= -0.5) & (place < width - 0.5)
    at, d = first.long(), place - first
    one, two, three, four = (
        images.gather(3, (at + i).clamp(0, width - 1).expand_as(images)).double() for i in (-1, 0, 1, 2)
    )
    value = two + d * (three - one + d * (2 * (one - two) + three - four + d * (four - one + two - three)))
    return value.clamp_(0, 255).to(torch.uint8).where(inside, GREY)


def shear_y_cubic(images: Tensor, slopes: Tensor) -> Tensor:
    """As `shear_x_cubic`, down the columns."""
    return shear_x_cubic(images.mT, slopes).mT


def rotate(images: Tensor, degrees: Tensor, fill: int = GREY) -> Tensor:
    """Counter-clockwise around the centre."""
    angle = -torch.deg2rad(degrees.double())
    cos, sin = angle.cos(), angle.sin()
    x, y = images.shape[3] / 2, images.shape[2] / 2
    matrices = _matrices(images, a=cos, b=sin, c=x - x * cos - y * sin, d=-sin, e=cos, f=y + x * sin - y * cos)
    return affine(images, matrices, fill)


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror left and right the images where bool `chosen` is true."""
    mask = per_image(255 * chosen.to(torch.uint8), images, torch.uint8)
    # (mirrored ^ image) & mask ^ image is `where`, whose bits, unlike those of `where`, are worked out a register at a time.
    return images.flip(3).bitwise_xor_(images).bitwise_and_(mask).bitwise_xor_(images)


def crop(images: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """The windows [B, C, size, size] whose upper left corners are at int64 `top`, `left`. What lies outside of an image, by
    less than its size, is what it holds as far inside: mirrored at the border pixel."""
    batch, channels, height, width = images.shape
    pixel = torch.arange(size, device=images.device)
    rows = _mirrored(send(top, images.device)[:, None] + pixel, height)
    columns = _mirrored(send(left, images.device)[:, None] + pixel, width)
    window = (rows[:, :, None] * width + columns[:, None]).view(batch, 1, -1)
    return images.flatten(2).gather(2, window.expand(-1, channels, -1)).view(batch, channels, size, size)


def _mirrored(index: Tensor, size: int) -> Tensor:
    last = size - 1
    return last - (last - index.abs()).abs()


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The middle [..., size, size] of the images, as a view."""
    top, left = ((side - size) // 2 for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop int64 `boxes` [B, 4] (top, left, height, width), then resize to `size` with an antialiased bilinear filter.

    Pillow also rounds between its two passes and works in fixed point, so the two can differ by one level.
    """
    top, left, height, width = send(boxes.float(), images.device).T
    rows = _triangle_filter(top, height, images.shape[2], size)
    columns = _triangle_filter(left, width, images.shape[3], size)
    narrow = images.float().flatten(1, 2) @ columns.mT  # all channels' rows in one product: [B, C * H, size]
    out = rows[:, None] @ narrow.unflatten(1, images.shape[1:3])
    return out.round_().clamp_(0, 255).to(torch.uint8)


def _triangle_filter(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """Weights [B, size_out, size_in] that resample pixels start .. start + length - 1 to `size_out` pixels."""
    pixel = torch.arange(size_in, device=start.device)
    start, length = start[:, None], length[:, None]
    scale = length / size_out
    centre = start + (torch.arange(size_out, device=start.device) + 0.5) * scale
    reach = scale.clamp(min=1)[..., None]
    weights = (1 - (pixel + 0.5 - centre[..., None]).abs() / reach).clamp_(min=0)
    weights *= ((pixel >= start) & (pixel < start + length))[:, None]
    return weights / weights.sum(2, keepdim=True)


# --- Colour -----------------------------------------------------------------------------------------------------------


def luma(images: Tensor) -> Tensor:
    """ITU-R 601 luma, whole levels as float32 [B, 1, H, W], rounded as in Pillow; a grey image is its own."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().split(1, 1)  # sums stay below 2^24, so float32 is exact
    return (19595 * red).add_(green, alpha=38470).add_(blue, alpha=7471).add_(32768).mul_(2**-16).floor_()


def _blend(base: Tensor | float, images: Tensor, factors: Tensor) -> Tensor:
    """`base` moved towards (factor < 1) or through (factor > 1) the images; the fraction is cut off, as in Pillow."""
    moved = (images.float() - base).mul_(per_image(factors, images)).add_(base)
    return moved.clamp_(0, 255).to(torch.uint8)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Factor 0 gives black, 1 the image."""
    return _blend(0, images, factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Factor 0 gives the image's mean luma, 1 the image."""
    mean = luma(images).mean((1, 2, 3), keepdim=True, dtype=torch.float64)
    return _blend((mean + 0.5).floor_().float(), images, factors)


def colour(images: Tensor, factors: Tensor) -> Tensor:
    """Factor 0 gives greyscale, 1 the image."""
    return images if images.shape[1] == 1 else _blend(luma(images), images, factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Factor 0 gives the image smoothed by a 3 x 3 kernel (centre 5, others 1; the border stays), 1 the image."""
    smooth = images.float()
    rows = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
    middle = smooth[:, :, 1:-1, 1:-1]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * middle
    middle.copy_(total.add_(6.5).div_(13).floor_())  # to the nearest level: 13 is odd, so there are no ties
    return _blend(smooth, images, factors)


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue by `turns` of the colour circle (-0.5 to 0.5), in float32: HSV without Pillow's 8-bit hue."""
    if images.shape[1] == 1:
        return images
    rgb = images.float()
    red, green, blue = rgb.split(1, 1)
    value, lowest = rgb.amax(1, keepdim=True), rgb.amin(1, keepdim=True)
    chroma = value - lowest
    safe = chroma.clamp(min=1)
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sextant = sextant + 6 * per_image(turns, images)
    # Each channel is the same trapezoid over the colour circle, shifted: red by 5, green by 3, blue by 1 sixths.
    shift = send(torch.tensor((5.0, 3.0, 1.0)), images.device).view(1, 3, 1, 1)
    place = (sextant + shift) % 6
    return (value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)).round_().to(torch.uint8)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` bits of each pixel."""
    return images & per_image(256 - 2 ** (8 - bits.int()), images, torch.uint8)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert the pixels at or above the threshold."""
    return torch.where(images >= per_image(thresholds, images), 255 - images, images)


def solarize_add(images: Tensor, levels: Tensor) -> Tensor:
    """Make the pixels of the darker half brighter by so many levels."""
    brighter = images.short().add_(per_image(levels, images, torch.int16)).clamp_(max=255).to(torch.uint8)
    return brighter.where(images < 128, images)


def invert(images: Tensor, _: Tensor) -> Tensor:
    return 255 - images


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to 0..255."""
    flat = images.flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    level = torch.arange(256, device=images.device)
    scale = 255.0 / (high - low).double()
    table = (level * scale - low * scale).clamp(0, 255).to(torch.uint8)
    return _look_up(images, torch.where(high > low, table, level.to(torch.uint8)))


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Make each channel's histogram flat."""
    flat = images.flatten(2)
    batch, channels, pixels = flat.shape
    row = 256 * torch.arange(batch * channels, device=images.device).view(batch, channels, 1)
    histogram = torch.zeros(batch * channels * 256, dtype=torch.int32, device=images.device)
    one = torch.ones((), dtype=torch.int32, device=images.device)
    histogram.scatter_add_(0, (flat + row).flatten(), one.expand(flat.numel()))
    histogram = histogram.view(batch, channels, 256)
    highest = flat.amax(2, keepdim=True).long()
    step = (pixels - histogram.gather(2, highest)) // 255
    below = histogram.cumsum(2) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    level = torch.arange(256, device=images.device)
    return _look_up(images, torch.where(step > 0, table, level).to(torch.uint8))


def _look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replace each pixel by its entry in `tables` uint8 [B, C, 256]."""
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def gaussian_blur(images: Tensor, sigmas: Tensor, reach: int) -> Tensor:
    """Blur with standard deviation `sigmas` in pixels; the kernel has 2 * `reach` + 1 taps, the border is repeated."""
    batch, channels, height, width = images.shape
    offset = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offset / per_image(sigmas, images).view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, None]
    planes = F.pad(images.float().view(1, -1, height, width), (reach,) * 4, mode="replicate")
    planes = F.conv2d(F.conv2d(planes, kernel, groups=batch * channels), kernel.mT, groups=batch * channels)
    return planes.view_as(images).round_().clamp_(0, 255).to(torch.uint8)


def cutout(images: Tensor, centres: Tensor, length: int) -> Tensor:
    """Images with a `length` x `length` square around int64 `centres` [B, 2] (row, column), clipped, set to 0."""
    row, column = send(centres, images.device).T[..., None, None]
    y = torch.arange(images.shape[2], device=images.device)[:, None]
    x = torch.arange(images.shape[3], device=images.device)
    low, high = length // 2, (length + 1) // 2
    hidden = (y >= row - low) & (y < row + high) & (x >= column - low) & (x < column + high)
    return images.masked_fill(hidden[:, None], 0)
