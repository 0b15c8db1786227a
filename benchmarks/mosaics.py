"""Reads the optional local image sets that the longer experiments use.

Set ``GENAF_DATA`` to a folder with ``NAME-train.jpg``, ``NAME-test.jpg`` (mosaics of 32 x 32 tiles, 250 a row) and
``NAME-train-labels.npy``, ``NAME-test-labels.npy``. ``gtsrb-train-tracks.npy`` groups near-identical video frames.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genaf_sdk.data import DataSplits, load_data

TILE, COLUMNS = 32, 250


def data_folder() -> Path:
    """Return the folder named by ``GENAF_DATA``; exit with a hint where there is none."""
    folder = os.environ.get("GENAF_DATA")
    if not folder or not Path(folder).is_dir():
        raise SystemExit(
            f"GENAF_DATA is {folder!r}: set it to the folder that holds the image mosaics (see {__file__})"
        )
    return Path(folder)


def read_mosaic(name: str, split: str) -> tuple[Tensor, Tensor]:
    """Return uint8 images (N, 3, 32, 32) and int64 labels (N,) of one split ("train" or "test")."""
    folder = data_folder()
    labels = np.load(folder / f"{name}-{split}-labels.npy", allow_pickle=False)
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(folder / f"{name}-{split}.jpg", formats=("JPEG",)) as mosaic:
        pixels = np.asarray(mosaic)
    tiles = pixels.reshape(pixels.shape[0] // TILE, TILE, COLUMNS, TILE, 3).transpose(0, 2, 4, 1, 3)
    images = np.ascontiguousarray(tiles.reshape(-1, 3, TILE, TILE)[: len(labels)])
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def read_tracks(name: str) -> Tensor:
    """Return the group (int64, (N,)) of every training image: frames of one track never straddle a split."""
    return torch.from_numpy(np.load(data_folder() / f"{name}-train-tracks.npy", allow_pickle=False).astype(np.int64))


def load_mosaic(
    name: str, images: int | None, seed: int, size: tuple[int, int] | None = None, interpolation: str = "bilinear"
) -> DataSplits:
    """Return a set with splits; its training images, up to ``images`` of them, drawn by ``seed``.

    Frames of one track stay together, in training or in validation. Tiles are enlarged to ``size``, if that is given.
    """
    pixels, labels = read_mosaic(name, "train")
    test = read_mosaic(name, "test")
    tracks = labels * 100_000 + read_tracks(name) if name == "gtsrb" else torch.arange(len(labels))
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:images]
    groups = torch.cat([tracks[drawn], -1 - torch.arange(len(test[1]))])
    splits = load_data(
        [(pixels[drawn], labels[drawn]), test],
        image_size=size,
        interpolation=interpolation,
        groups=groups.tolist(),
        seed=seed,
    )
    return dataclasses.replace(splits, name=name)
