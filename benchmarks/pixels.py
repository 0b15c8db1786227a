"""What do gradients of pixels cost a training pass, and the normalization? On 64 images, of which a bank reads 20.

    python benchmarks/pixels.py
    python benchmarks/pixels.py --encoders FOLDER --only mobilenet_v1_x0.25 --size 128

A pass of an encoder forth and back to the weights: with gradients of all pixels, as training has them; of none; and of
those images alone that the bank learns from, which the first convolution would have to know.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from robustness import ENCODERS
from timing import begin, finish, interleaved, parser_of, spread, table
from torch import Tensor, nn

from genaf_sdk.inputs.images import image_space
from genaf_sdk.memory import reused_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.models.encoder import PixelEncoder

IMAGES, READ = 64, slice(12, 32)
"""Of 32 perturbed and 32 clean images, those with a perturbation or patch of the bank."""


class SomeRows(torch.autograd.Function):
    """A convolution whose inputs get a gradient for some rows alone, the others zero."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, convolution: nn.Conv2d) -> Tensor:
        """Convolve."""
        context.save_for_backward(inputs, weight)
        context.convolution = convolution
        return type(convolution)._conv_forward(convolution, inputs, weight, bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of inputs, weight and bias."""
        (gradient,), (inputs, weight), conv = gradients, context.saved_tensors, context.convolution
        sizes = [len(weight)], conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups
        back: Callable[..., tuple[Tensor, ...]] = torch.ops.aten.convolution_backward
        _, of_weight, of_bias = back(gradient, inputs, weight, *sizes, [False, True, conv.bias is not None])
        found = torch.zeros_like(inputs)
        found[READ] = back(gradient[READ], inputs[READ], weight, *sizes, [True, False, False])[0]
        return found, of_weight, of_bias, None


def crossed(encoder: PixelEncoder, images: Tensor, *, gradients: bool, some: nn.Conv2d | None = None) -> Tensor | None:
    """Cross the network forth and back, and return the gradient of the pixels."""
    pixels = images.detach().clone(memory_format=torch.channels_last).requires_grad_(gradients)
    encoder.zero_grad()
    if some is None:
        encoder(pixels).square().sum().backward()
    else:
        with mock.patch.object(some, "_conv_forward", lambda *given: SomeRows.apply(*given, some)):
            encoder(pixels).square().sum().backward()
    return pixels.grad


def normalized(encoder: PixelEncoder, images: Tensor, *, spread_out: bool) -> None:
    """Normalize and go back, with the channels' means looked up, or laid out as training does."""
    pixels = images.detach().clone(memory_format=torch.channels_last).requires_grad_()
    backbone = mock.patch.object(encoder, "backbone", nn.Flatten())
    if spread_out:
        with backbone:
            encoder(pixels).sum().backward()
    else:
        ((pixels - encoder.mean) / encoder.std).flatten(1).sum().backward()


def main() -> None:
    parser = parser_of(__doc__, repeats=9, processor=True)
    parser.add_argument("--encoders", type=Path, default=Path())
    parser.add_argument("--only", choices=list(ENCODERS), default="bundled")
    parser.add_argument("--size", type=int, default=32)
    arguments = parser.parse_args()
    device = begin(arguments)
    sys.path.insert(0, str(arguments.encoders.resolve()))
    side = (arguments.size, arguments.size)
    images = image_space(torch.empty(1, 3, *side)).arranged(torch.rand(IMAGES, 3, *side))
    encoder = image_space(images).placed(ENCODERS[arguments.only](arguments.encoders, side)).train().requires_grad_()
    first = next(module for module in encoder.modules() if isinstance(module, nn.Conv2d))
    ways: dict[str, Callable[[], object]] = {
        "pass, gradients of all pixels": partial(crossed, encoder, images, gradients=True),
        "pass, of none": partial(crossed, encoder, images, gradients=False),
        "pass, of 20 images": partial(crossed, encoder, images, gradients=True, some=first),
        "normalization, means looked up": partial(normalized, encoder, images, spread_out=False),
        "normalization, means laid out": partial(normalized, encoder, images, spread_out=True),
    }
    with reused_memory():
        whole, some = ways["pass, gradients of all pixels"](), ways["pass, of 20 images"]()
        torch.testing.assert_close(some[READ], whole[READ])  # type: ignore[index]
        seconds = interleaved(ways, arguments.repeats, device, clock=arguments.clock)
    records = [{"64 images": name, "CPU s": spread(values)} for name, values in seconds.items()]
    print(table(records))
    finish(arguments, records)


if __name__ == "__main__":
    main()
