"""Common corruptions of images: twelve kinds in five strengths, made from nothing but the image and a seed.

The kinds are those of ImageNet-C (Hendrycks and Dietterich, ICLR 2019) that need no pictures of frost or snow. Radii
and displacements are given for images of 224 pixels and scale with the side; noise, contrast and quality do not.
Strengths are ImageNet-C's where those grow, which not all do: accuracies are to be compared with one another, not with
published ones of ImageNet-C, nor of CIFAR-10-C, whose noise is milder.
"""

from __future__ import annotations

import hashlib
import io
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from genaf_sdk.errors import DataError
from genaf_sdk.inputs.images import image_space
from genaf_sdk.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STRENGTHS = (1, 2, 3, 4, 5)
REFERENCE_SIDE = 224
SUBSAMPLES = 16
"""Points along a disc's diameter for every pixel of its radius."""


def corrupted(images: Tensor, kind: str, strength: int, keys: Sequence[int]) -> Tensor:
    """Return corrupted images (N, C, H, W) in [0, 1].

    What is random belongs to an image and a kind alone: neither to the batch, nor to the strength.

    Args:
        images: (N, C, H, W) in [0, 1].
        kind: One of ``CORRUPTIONS``.
        strength: 1 to 5.
        keys: A number an image, of which its random choices follow: its place in the data set, say.

    Raises:
        DataError: There is no such kind or strength, or not as many keys as images.
    """
    if kind not in CORRUPTIONS:
        raise unknown(f"There is no corruption {kind!r}.", kind, CORRUPTIONS, DataError)
    if strength not in STRENGTHS or len(keys) != len(images):
        raise DataError(
            f"Strength {strength!r} is asked for, with {len(keys)} keys for {len(images)} images.",
            expected="a strength of 1 to 5, and a key an image",
        )
    if len(images) == 0:
        return images
    generators = [torch.Generator().manual_seed(_seed(key, kind)) for key in keys]
    space = image_space(images)
    corrupted = CORRUPTIONS[kind](space.clip(images.cpu().float()), strength - 1, generators)
    return space.clip(corrupted).to(images)


def _seed(key: int, kind: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{key} {kind}".encode(), digest_size=8).digest(), "little") >> 1


Generators = list[torch.Generator]


def _gaussian_noise(images: Tensor, level: int, generators: Generators) -> Tensor:
    return images + (0.08, 0.12, 0.18, 0.26, 0.38)[level] * _drawn(torch.randn, images.shape[1:], generators)


def _shot_noise(images: Tensor, level: int, generators: Generators) -> Tensor:
    """Counts of photons, of which a white pixel gets so many."""
    photons = (60, 25, 12, 5, 3)[level]
    pairs = zip(images, generators, strict=True)
    return torch.stack([torch.poisson(image * photons, generator=own) for image, own in pairs]) / photons


def _impulse_noise(images: Tensor, level: int, generators: Generators) -> Tensor:
    """Salt and pepper: a share of the values becomes 0 or 1."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    hit, white = _drawn(torch.rand, (2, *images.shape[1:]), generators).unbind(1)
    return torch.where(hit < share, (white < 0.5).to(images), images)


def _defocus_blur(images: Tensor, level: int, generators: Generators) -> Tensor:
    """The mean over a disc, of the image interpolated between its pixels."""
    del generators
    radius = (3, 4, 6, 8, 10)[level] * _scale(images)
    line = torch.linspace(-radius, radius, SUBSAMPLES * math.ceil(radius) + 1)
    inside = (line[:, None] ** 2 + line[None, :] ** 2 <= 1.0001 * radius**2).float()
    near = _nearness(line, math.ceil(radius))
    return _filtered(images, (near.T @ inside @ near)[None])


def _motion_blur(images: Tensor, level: int, generators: Generators) -> Tensor:
    """A line through the pixel at an angle of its own up to 45 degrees, weighted by a normal distribution.

    ImageNet-C's trails to one side, which moves the image as well.
    """
    radius, sigma = (length * _scale(images) for length in ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level])
    angles = (2 * _drawn(torch.rand, (1,), generators)[:, 0] - 1) * math.pi / 4
    along = torch.linspace(-radius, radius, 8 * math.ceil(radius) + 1)
    weights = torch.exp(-(along**2) / (2 * sigma**2))
    near_x, near_y = (_nearness(side[:, None] * along, math.ceil(radius)) for side in (angles.cos(), angles.sin()))
    return _filtered(images, torch.einsum("t,nty,ntx->nyx", weights, near_y, near_x))


def _zoom_blur(images: Tensor, level: int, generators: Generators) -> Tensor:
    """The mean of the image and of enlargements of it."""
    del generators
    largest, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = torch.arange(1, largest, step)
    total = images.clone()
    for factor in factors.tolist():
        matrix = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(images), 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        total += F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return total / (len(factors) + 1)


def _fog(images: Tensor, level: int, generators: Generators) -> Tensor:
    """Plasma noise (diamond-square), put on so that the brightest value stays."""
    density, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (3.0, 1.5), (3.5, 1.4))[level]
    side = 2 ** math.ceil(math.log2(max(*images.shape[2:], 2)))
    fog = _plasma(2 * _drawn(torch.rand, (side, side), generators) - 1, decay)
    fog = density * fog[:, None, : images.shape[2], : images.shape[3]]
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + fog) * brightest / (brightest + density)


def _plasma(noise: Tensor, decay: float) -> Tensor:
    """Return plasma (N, S, S) in [0, 1] on a torus, S a power of 2, from noise (N, S, S) in [-1, 1]."""
    field, step, wobble = torch.zeros_like(noise), noise.shape[-1], 1.0
    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        right, below = corners.roll(-1, 2), corners.roll(-1, 1)
        squares = (corners + right + below + right.roll(-1, 1)) / 4
        squares = squares + wobble * noise[:, half::step, half::step]
        field[:, half::step, half::step] = squares
        across = (corners + right + squares + squares.roll(1, 1)) / 4
        field[:, ::step, half::step] = across + wobble * noise[:, ::step, half::step]
        down = (corners + below + squares + squares.roll(1, 2)) / 4
        field[:, half::step, ::step] = down + wobble * noise[:, half::step, ::step]
        step, wobble = half, wobble / decay
    low, high = field.amin(dim=(1, 2), keepdim=True), field.amax(dim=(1, 2), keepdim=True)
    return (field - low) / (high - low).clamp(min=1e-12)


def _brightness(images: Tensor, level: int, generators: Generators) -> Tensor:
    """The value of hue, saturation, value is raised; hue and saturation stay."""
    del generators
    value = images.amax(dim=1, keepdim=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[level]).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-12), raised)


def _contrast(images: Tensor, level: int, generators: Generators) -> Tensor:
    """Every channel is drawn toward its mean."""
    del generators
    means = images.mean(dim=(2, 3), keepdim=True)
    return means + (0.4, 0.3, 0.2, 0.1, 0.05)[level] * (images - means)


def _elastic(images: Tensor, level: int, generators: Generators) -> Tensor:
    """Smooth random displacements of a given root mean square.

    ImageNet-C's five strengths are of two sorts, wide and fine; these grow in one.
    """
    height, width = images.shape[2:]
    amplitude, smoothness = (3.0, 4.5, 6.0, 8.0, 10.0)[level] * _scale(images), 12 * _scale(images)
    reach = max(1, math.ceil(3 * smoothness))
    line = torch.exp(-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * smoothness**2))
    noise = _drawn(torch.randn, (2, height + 2 * reach, width + 2 * reach), generators)
    smooth = F.conv2d(F.conv2d(noise.flatten(0, 1)[:, None], line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
    moved = smooth.view(len(images), 2, height, width)
    moved = amplitude * moved / moved.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
    still = F.affine_grid(torch.eye(2, 3).expand(len(images), 2, 3), list(images.shape), align_corners=False)
    shift = 2 * moved.permute(0, 2, 3, 1) / torch.tensor([width, height])
    return F.grid_sample(images, still + shift, padding_mode="reflection", align_corners=False)


def _pixelate(images: Tensor, level: int, generators: Generators) -> Tensor:
    """Fewer pixels, and back to the size, both by the parts of pixels that overlap."""
    del generators
    share = (0.6, 0.5, 0.35, 0.25, 0.15)[level]
    for axis in (2, 3):
        side = images.shape[axis]
        fewer = max(1, round(side * share))
        weights = _boxes(side, fewer) @ _boxes(fewer, side)
        images = (images.transpose(axis, 3) @ weights.T).transpose(axis, 3)
    return images


def _boxes(rows: int, columns: int) -> Tensor:
    """Return the weights (rows, columns) that resize a line of pixels by the parts of them that overlap."""
    edges = torch.arange(rows + 1, dtype=torch.float64)[:, None] * columns / rows
    starts = torch.arange(columns, dtype=torch.float64)
    overlaps = (torch.minimum(edges[1:], starts + 1) - torch.maximum(edges[:-1], starts)).clamp(min=0)
    return (overlaps * rows / columns).float()


def _jpeg(images: Tensor, level: int, generators: Generators) -> Tensor:
    """JPEG of low quality; channels other than three are written one by one."""
    del generators
    quality = (25, 18, 15, 10, 7)[level]
    colors = images.shape[1] == 3
    planes = images if colors else images.flatten(0, 1)[:, None]
    written = []
    for pixels in image_space(planes).clip(planes).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels if colors else pixels[:, :, 0]).save(file, "JPEG", quality=quality)
        with Image.open(file) as opened:
            written.append(torch.from_numpy(np.array(opened)).float() / 255)
    found = torch.stack(written)
    return found.permute(0, 3, 1, 2) if colors else found.view(images.shape)


def _scale(images: Tensor) -> float:
    """Return the side of the images in units of the side that lengths are given for."""
    return math.sqrt(images.shape[2] * images.shape[3]) / REFERENCE_SIDE


def _drawn(draw: Callable[..., Tensor], shape: Sequence[int], generators: Generators) -> Tensor:
    """Return random numbers (N, *shape), those of each image from a generator of its own."""
    return torch.stack([draw(tuple(shape), generator=generator) for generator in generators])


def _nearness(points: Tensor, reach: int) -> Tensor:
    """Return the weights (..., 2 reach + 1) of linear interpolation at points (...), in pixels from the middle."""
    return (1 - (torch.arange(-reach, reach + 1) - points[..., None]).abs()).clamp(min=0)


def _filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Return images (N, C, H, W) filtered by kernels (1 or N, k, k) of odd side, edges repeated."""
    count, channels = images.shape[:2]
    kernels = kernels / kernels.sum(dim=(1, 2), keepdim=True)
    reach = kernels.shape[-1] // 2
    padded = F.pad(images, [reach] * 4, mode="replicate").flatten(0, 1)[None]
    weights = kernels.expand(count, -1, -1).repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(padded, weights, groups=count * channels)[0].view(images.shape)


CORRUPTIONS: dict[str, Callable[[Tensor, int, Generators], Tensor]] = {
    "gaussian noise": _gaussian_noise,
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "defocus blur": _defocus_blur,
    "motion blur": _motion_blur,
    "zoom blur": _zoom_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
"""Kind -> function of images (N, C, H, W) on the CPU, a level from 0 to 4, and a generator an image."""
