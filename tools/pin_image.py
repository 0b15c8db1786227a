"""Write the digest of the server's base image into its Dockerfile, so that every build starts from the same bytes.

    python tools/pin_image.py

It asks `docker buildx imagetools`, and so needs Docker and the network. Without a digest the Dockerfile refuses to be
built, unless it is told that a tag will do.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCKERFILE = Path(__file__).resolve().parents[1] / "export" / "serve" / "Dockerfile"
BASE = re.compile(r"^ARG BASE=([\w./:-]+)(@sha256:[0-9a-f]{64})?$", re.M)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(image: str) -> str:
    """Return what a tag names today.

    Raises:
        RuntimeError: Docker is missing, or does not know.
    """
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{.Manifest.Digest}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"docker cannot be asked for the digest of {image}: {error}") from error
    found = done.stdout.strip()
    if done.returncode or not DIGEST.fullmatch(found):
        raise RuntimeError(f"docker does not tell the digest of {image}: {(done.stderr or found).strip()[:300]}")
    return found


def pinned(text: str, digest: str) -> str:
    """Return a Dockerfile whose base image is named by tag and digest."""
    return BASE.sub(rf"ARG BASE=\g<1>@{digest}", text, count=1)


def main() -> int:
    """Pin the image; return 1 where its digest cannot be had."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    found = BASE.search(text)
    if found is None:
        print(f"{DOCKERFILE.name} names no base image", file=sys.stderr)
        return 1
    try:
        digest = digest_of(found[1])
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    DOCKERFILE.write_text(pinned(text, digest), encoding="utf-8")
    print(f"{found[1]} is {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
