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
from genaf_sdk.export.verify import verify_bundle


def main(folder: str, repo: str) -> None:
    """Push in one commit, then act as somebody else who finds it there."""
    print(push_bundle(folder, repo, private=True))

    model = HardenedModel.from_pretrained(repo)
    data = load_data("digits", image_size=model.image_size)
    images, labels = data.test.head(3)
    print("predicted", model.predict(images), "true", labels.tolist())

    rows = verify_bundle(fetch_bundle(repo), data)  # the report's figures, measured again on the ONNX file
    print(f"{sum(row.agrees for row in rows)} of {len(rows)} rows of the report agree")


if __name__ == "__main__":
    main(*sys.argv[1:3])
