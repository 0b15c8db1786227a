"""Write the files that name every package by version: for a run that can be repeated, and for the server's image.

    python tools/lock.py

`requirements.lock`: the base install, with the versions of the environment that this runs in, which is the one that the
tests ran in; platforms that need others are named by markers. `export/serve/requirements-*-locked.txt`: what the
server's image installs, with the SHA-256 of every file, so that pip refuses any other. It needs `uv` (extra `dev`) and
a package index; which one is not recorded.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVE = ROOT / "export" / "serve"
IMAGE_PYTHON = "3.13"  # of the server's Dockerfile
LOCKS = {
    ROOT / "requirements.lock": (ROOT / "pyproject.toml", "", False),
    SERVE / "requirements-cpu-locked.txt": (SERVE / "requirements-cpu.txt", IMAGE_PYTHON, True),
    SERVE / "requirements-gpu-locked.txt": (SERVE / "requirements-gpu.txt", IMAGE_PYTHON, True),
}
"""Target: source, Python (empty: the oldest that the package takes), whether with hashes."""
PACKAGE = re.compile(r"^[\w.-]+(?:\[[^]]*\])?==", re.M)
"""The beginning of a line that names one; markers, too, have ``==``."""
HEADER = "# Written by tools/lock.py from {source}; do not edit.\n"


def main() -> int:
    """Write all locks, or none."""
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"].removeprefix(
        ">="
    )
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "here.txt"
        found = {f"{entry.name}=={entry.version}" for entry in importlib.metadata.distributions()}
        here.write_text("\n".join(sorted(line for line in found if not line.startswith("genaf-sdk="))), "utf-8")
        made = {}
        for target, (source, python, hashes) in LOCKS.items():
            command = ["uv", "pip", "compile", "--universal", "--no-header", "--no-annotate", "--quiet", "--no-config"]
            command += ["--python-version", python or oldest, "--constraint", str(here), str(source)]
            command += ["--generate-hashes"] if hashes else []
            command[0] = str(Path(sys.executable).with_name("uv"))
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{target.relative_to(ROOT)}: {done.stderr.strip()}", file=sys.stderr)
                return 1
            made[target] = HEADER.format(source=source.relative_to(ROOT).as_posix()) + done.stdout
    for target, text in made.items():
        target.write_text(text, encoding="utf-8")
        print(f"{target.relative_to(ROOT)}: {len(PACKAGE.findall(text))} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
