"""Ask a running server what is on a picture: as an image file, and as a tensor by the Open Inference Protocol.

Start ``python -B -m serve`` in a bundle's folder, ``pip install "tritonclient[http]" pillow``, then
``python serve_client.py picture.jpg``.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path

import numpy as np
import tritonclient.http
from PIL import Image, ImageOps

SERVER = os.environ.get("SERVER", "127.0.0.1:8000")
HEADERS = {"Authorization": f"Bearer {os.environ['SERVE_API_KEY']}"} if "SERVE_API_KEY" in os.environ else {}


def classify_file(path: Path) -> None:
    """The server decodes and resizes: the shortest way."""
    request = urllib.request.Request(f"http://{SERVER}/classify?top=3", path.read_bytes(), HEADERS)
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        answer = json.load(response)
    for entry in answer["top"]:
        print(f"{entry['score']:7.1%}  {entry['label']}")


def classify_tensor(path: Path) -> None:
    """The client decodes and resizes: for many images at once, and for pixels that are no file. No alpha channels."""
    with tritonclient.http.InferenceServerClient(SERVER) as client:
        model = client.get_model_repository_index(headers=HEADERS)[0]["name"]
        described = client.get_model_metadata(model, headers=HEADERS)
        metadata, filtered = described["inputs"][0], described["parameters"]["interpolation"].upper()
        resampling = Image.Resampling["BICUBIC" if filtered == "LANCZOS" else filtered]  # as in training
        with Image.open(path) as image:
            if metadata["datatype"] == "UINT8":
                _, height, width, channels = metadata["shape"]
            else:
                _, channels, height, width = metadata["shape"]
            shown = ImageOps.exif_transpose(image).convert("RGB" if channels == 3 else "L")
            resized = shown.resize((width, shown.height), resampling).resize((width, height), resampling)  # rows first
        pixels = np.asarray(resized).reshape(1, height, width, channels)
        if metadata["datatype"] == "FP32":
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 255
        tensor = tritonclient.http.InferInput(metadata["name"], pixels.shape, metadata["datatype"])
        tensor.set_data_from_numpy(pixels)
        logits = client.infer(model, [tensor], headers=HEADERS).as_numpy("logits")[0]
    print(f"{model}: class {logits.argmax()} of {len(logits)}")


if __name__ == "__main__":
    classify_file(Path(sys.argv[1]))
    classify_tensor(Path(sys.argv[1]))
