"""Publish a hardened model on the Hugging Face Hub, fetch it again, and check what came back.

    hf auth login
    python examples/push_to_hub.py demo-output ORG/NAME

The folder is what `genaf harden` or `harden(..., output_dir=...)` left; after a run, `result.push_to_hub("ORG/NAME")`
does the same. Only safetensors, ONNX and JSON go up and come down: nothing is unpickled.
"""

from __future__ import annotations

import sys

from genaf_sdk import HardenedModel, load_data
from genaf_sdk.export.hub import fetch_bundle, push_bundle
from genaf_sdk.verification import verify


def main(folder: str, repo: str) -> None:
    """Push in one commit, then act as somebody else who finds it there."""
    print(push_bundle(folder, repo, on_files=lambda files: print(*(file.name for file in files), sep="\n")))

    model = HardenedModel.from_pretrained(repo)
    data = load_data("digits", image_size=model.image_size)
    images, labels = data.test.sample(3)
    print("predicted", model.predict(images), "true", labels.tolist())

    found = verify(fetch_bundle(repo), "digits")  # its parts against one another, its rows; fresh=True attacks anew
    print(found.summary)


if __name__ == "__main__":
    main(*sys.argv[1:3])
