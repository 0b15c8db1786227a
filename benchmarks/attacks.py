"""How long does every attack take: in fp32 and bf16, with and without early exit, by batch and by restarts?

    python benchmarks/attacks.py                      # the default evaluation's attacks
    python benchmarks/attacks.py --attacks pap-base ssp apgd-ce

Universal attacks are crafted on the bundled encoder, in both precisions in turn. Sample-wise attacks always run in
fp32; they are timed on a model that they fool (early exit pays) and on one that cannot be fooled (it cannot). Those on
the encoder alone have no exit. Then two
answers to whether restarts are worth putting into one batch: one sign step of PGD by batch size, and one step of
UAPGD for several universal perturbations at once.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import torch
from timing import Record, begin, finish, interleaved, median, parser_of, spread, table
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.attacks import EncoderAttack, FeatureAttack, SampleWiseAttack, load_attack
from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.attacks.base import UniversalAttack
from genaf_sdk.attacks.checks import attack_mode
from genaf_sdk.data import load_data
from genaf_sdk.encoders import load_encoder
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.inputs.images import image_space
from genaf_sdk.methods.steps import SignSteps, ascend
from genaf_sdk.models.heads import build_head

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from genaf_sdk.attacks import Attack

BATCHES = (32, 64, 125, 250, 500, 1000)
RESTARTS = (1, 2, 4, 8)
ONE_STEP = SignSteps(epsilon=8 / 255, step_size=2 / 255, steps=1)


class Unfoolable(nn.Module):
    """The model with its right logit raised beyond reach: the same work, and no image is ever fooled."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, C, H, W) to logits (N, K) that always name class 0."""
        logits: Tensor = self.model(pixels)
        return torch.cat([logits[:, :1] * 1e-3 + 100, logits[:, 1:]], dim=1)


def main() -> None:
    parser = parser_of(__doc__, repeats=3)
    parser.add_argument("--attacks", nargs="+", default=list(EvaluationConfig().attacks))
    parser.add_argument("--images", type=int, default=EvaluationConfig().surrogate_samples)
    arguments = parser.parse_args()
    device = begin(arguments)
    encoder = load_encoder("bundled:simclr-cifar10")
    model = nn.Sequential(encoder, build_head("mlp", encoder.feature_dim((32, 32)), 10)).to(
        device, memory_format=torch.channels_last
    )
    pixels, labels = load_data("digits", image_size=(32, 32)).train.sample(arguments.images, seed=arguments.seed)
    pixels = pixels.to(device).contiguous(memory_format=torch.channels_last)
    labels = labels.to(device)
    records: list[Record] = []
    for name in arguments.attacks:
        records += timed(load_attack(name), model.eval(), pixels, labels, arguments)
        print(table(records) if len(records) < 3 else table(records[-2:]).split("\n", 2)[2], flush=True)
    batches = batch_sizes(model, pixels, arguments)
    print("\n" + table(batches))
    restarts = joint_restarts(model[0], pixels, arguments)
    print("\n" + table(restarts))
    finish(arguments, records + batches + restarts)


def timed(
    attack: Attack, model: nn.Module, pixels: Tensor, labels: Tensor, arguments: argparse.Namespace
) -> list[Record]:
    """Time both ways of running one attack; the ratio compares with the first."""
    if isinstance(attack, SampleWiseAttack):
        few = pixels[: attack.batch_size]
        zeros = torch.zeros(len(few), dtype=torch.int64, device=pixels.device)
        ways: dict[str, Callable[[], object]] = {
            "fp32, no image fooled": partial(attack, Unfoolable(model), few, zeros),
            "fp32, images fooled": partial(attack, model, few, model(few).argmax(1)),
        }
    elif isinstance(attack, FeatureAttack):
        ways = {"fp32": partial(attack, model[0], pixels[: attack.batch_size])}  # type: ignore[index]
    else:
        target = (model[0], pixels) if isinstance(attack, EncoderAttack) else (model, pixels, labels)  # type: ignore[index]
        ways = {
            precision: partial(dataclasses.replace(attack, precision=precision), *target)
            for precision in ("fp32", "bf16")
            if isinstance(attack, UniversalAttack)
        }
    seconds = interleaved(ways, arguments.repeats, pixels.device, clock=arguments.clock)
    first = median(next(iter(seconds.values())))
    return [
        {"attack": attack.name, "way": way, "seconds": spread(runs), "ratio": round(first / median(runs), 2)}
        for way, runs in seconds.items()
    ]


def batch_sizes(model: nn.Module, pixels: Tensor, arguments: argparse.Namespace) -> list[Record]:
    """Time one step of PGD by batch size, as microseconds an image."""
    ways: dict[str, Callable[[], object]] = {}
    for size in BATCHES:
        images = pixels.repeat(-(-size // len(pixels)), 1, 1, 1)[:size]
        labels = torch.zeros(size, dtype=torch.int64, device=pixels.device)
        ways[str(size)] = partial(ascend, model, images, labels, torch.zeros_like(images), ONE_STEP)
    with attack_mode(model):
        seconds = interleaved(ways, arguments.repeats, pixels.device, clock=arguments.clock)
    return [
        {"batch": name, "microseconds an image": round(median(runs) / int(name) * 1e6)}
        for name, runs in seconds.items()
    ]


def joint_restarts(encoder: nn.Module, pixels: Tensor, arguments: argparse.Namespace) -> list[Record]:
    """Time one step of UAPGD, bf16, on 128 images for several universal perturbations in one batch."""
    images = pixels[:128]
    with torch.no_grad():
        clean = encoder(images)

    def step(count: int) -> Tensor:
        deltas = torch.zeros(count, *images.shape[1:], device=images.device, requires_grad=True)
        with torch.autocast(images.device.type, torch.bfloat16):
            features = encoder(
                image_space(images).add(images.repeat(count, 1, 1, 1), deltas.repeat_interleave(len(images), 0))
            )
        loss = -F.cosine_similarity(features.float(), clean.repeat(count, 1), dim=1).sum()
        return gradient_of(loss, deltas)

    with attack_mode(encoder):
        ways = {str(count): partial(step, count) for count in RESTARTS}
        seconds = interleaved(ways, arguments.repeats, pixels.device, clock=arguments.clock)
    return [
        {"perturbations in one batch": name, "milliseconds each": round(median(runs) / int(name) * 1e3, 1)}
        for name, runs in seconds.items()
    ]


if __name__ == "__main__":
    main()
