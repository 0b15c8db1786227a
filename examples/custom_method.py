"""A third party's method in one file: cross-entropy on images under plain random noise.

    python examples/custom_method.py

The decorator makes it known wherever methods are named: ``harden(..., method="toy")``, ``compare(..., ["toy"])``,
``HardenConfig.preset("toy")``. A package that is installed beside genaf-sdk registers its own without any import, by an
entry point in its pyproject.toml, and ``genaf compare --methods toy`` and ``genaf harden --preset toy`` find it too:

    [project.entry-points."genaf_sdk.methods"]
    toy = "my_package.toy:Toy"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genaf_sdk import HardenConfig, harden
from genaf_sdk.engine.schedule import Schedule
from genaf_sdk.engine.stage import Losses
from genaf_sdk.inputs.images import input_space
from genaf_sdk.methods import METHODS, Method, Strength
from genaf_sdk.methods.losses import cross_entropy
from genaf_sdk.settings import Epsilon


@METHODS.register
@dataclass(frozen=True)
class Toy(Method):
    """``CE(f(x + u), y)``, every value of u uniform in [-epsilon, epsilon]."""

    name: ClassVar = "toy"
    source: ClassVar = "examples/custom_method.py"
    strengths: ClassVar = {"toy": Strength("Random noise on every image.", protects="Noise.", leaves_open="Attacks.")}

    schedule: Schedule = Schedule(epochs=16)
    epsilon: Epsilon = 8 / 255

    def views(self, model, batch, adversary):  # noqa: ARG002  # this one needs no adversary
        """Return one view of the batch; its random numbers are the step's, on any number of processes."""
        noise = batch.uniform("noise", tuple(batch.inputs.shape[1:]), -self.epsilon, self.epsilon)
        return (input_space(model, batch.inputs).add(batch.inputs, noise),)

    def losses(self, outputs, batch):
        """Return one value a row; means, precision and processes are the engine's business."""
        return Losses(cross_entropy(outputs.logits[0], batch.labels))


if __name__ == "__main__":
    result = harden("bundled:simclr-cifar10", "digits", HardenConfig.preset("toy"), output_dir="toy-output")
    print(result.report.config["method"]["name"], result.report.verdict)
