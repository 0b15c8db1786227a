"""Harden an encoder on your own pictures: a folder with one subfolder a class.

python examples/own_folder.py                      # makes a small folder of drawn shapes and uses that
python examples/own_folder.py path/to/pictures     # yours: CLASS/IMAGE, or train|val|test/CLASS/IMAGE
python examples/own_folder.py path/to/pictures timm/vit_small_patch14_dinov2.lvd142m
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from genaf_sdk import harden, load_data, load_encoder


def draw_shapes(folder: Path, count: int = 300) -> Path:
    """Draw discs and squares of random color, size and place, three frames of each scene: what a video would give."""
    chance = random.Random(0)  # noqa: S311  # pictures, not secrets
    for name in ("disc", "square"):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            if index % 3 == 0:
                color = tuple(chance.randrange(90, 256) for _ in range(3))
                left, top, side = chance.randrange(3, 12), chance.randrange(3, 12), chance.randrange(10, 16)
            image = Image.effect_noise((32, 32), 40).convert("RGB")
            box = (left, top, left + side + index % 3, top + side + index % 3)
            draw = ImageDraw.Draw(image)
            (draw.ellipse if name == "disc" else draw.rectangle)(box, fill=color)
            image.save(folder / name / f"scene{index // 3}_{index:03d}.png")
    return folder


def main() -> None:
    """Harden and print what the report says first."""
    encoder = load_encoder(sys.argv[2] if len(sys.argv) > 2 else "bundled:simclr-cifar10")
    with tempfile.TemporaryDirectory() as temporary:
        own = len(sys.argv) > 1
        data = load_data(
            sys.argv[1] if own else draw_shapes(Path(temporary)),
            image_size=encoder.image_size,
            interpolation=encoder.interpolation,
            # Frames of one scene are nearly the same picture; apart, they would make the test an easy one.
            groups=None if own else lambda path: path.parent.name + path.stem.partition("_")[0],
        )
        print(data.describe())
        result = harden(encoder, data, output_dir="own-folder-output")
    print(result.report.verdict)
    print("\n".join(data.notes))


if __name__ == "__main__":
    main()
