"""From a hardened model to answers over HTTP: export, compare, serve, ask.

python examples/export_and_serve.py demo-output     # the folder of a run
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from io import BytesIO
from pathlib import Path

from torchvision.transforms.functional import to_pil_image

from genaf_sdk import HardenedModel, load_data
from genaf_sdk.export.parity import check_parity
from genaf_sdk.export.serve import load_bundle
from genaf_sdk.export.to_onnx import export_onnx


def main(folder: str) -> None:
    """Do it all on the first test image of the digits."""
    model = HardenedModel.from_pretrained(folder)
    images, labels = load_data("digits", image_size=model.image_size).test.sample(1)
    path = export_onnx(model, Path("again.onnx"))
    print(check_parity(model, path, images).text)

    prediction = load_bundle(folder).predict(images.numpy())  # onnxruntime in this process, no server
    print("here:", prediction.labels[0], "true:", labels[0].item())

    command = [sys.executable, "-B", "-m", "serve", "--http-port", "0", "--grpc-port", "-1"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as server:
        try:
            events = (json.loads(line) for line in server.stderr)
            port = next(event["http_port"] for event in events if event["event"] == "ready")
            picture = BytesIO()
            to_pil_image(images[0]).save(picture, "PNG")
            request = urllib.request.Request(f"http://127.0.0.1:{port}/classify", picture.getvalue())
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                print("served:", json.load(response)["label"])
        finally:
            server.terminate()


if __name__ == "__main__":
    main(sys.argv[1])
