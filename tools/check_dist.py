"""Try a wheel and an sdist: both hold what the checkout's package holds, and the wheel runs without the checkout.

Its description, which an index shows, has no link that leads nowhere there.

python tools/check_dist.py FOLDER
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 8 * 2**20  # bytes of a wheel: the bundled encoder is most of it
DATA = {".py", ".html", ".css", ".txt", ".json", ".safetensors", ".md", ".typed", ".dockerignore", ""}
RUN = """
import pathlib, sys
import genaf_sdk, genaf_sdk.export.bundle, genaf_sdk.export.serve.__main__
from genaf_sdk.cli import main
assert pathlib.Path(genaf_sdk.__file__).is_relative_to(sys.argv[1]), genaf_sdk.__file__
sys.exit(main(["--version"]))
"""


def packaged() -> set[str]:
    """Return what a wheel has to hold, by path."""
    found = set()
    for folder, name in ((ROOT / "genaf_sdk", "genaf_sdk"), (ROOT / "export", "genaf_sdk/export")):
        for path in folder.rglob("*"):
            inside = path.relative_to(folder).as_posix()
            linked = name == "genaf_sdk" and inside.startswith("export/")  # the link to the second folder
            if path.is_file() and path.suffix in DATA and "__pycache__" not in inside and not linked:
                found.add(f"{name}/{inside}")
    return found


def main(folder: Path) -> int:
    """Say what is missing, surplus, too large or does not run; return 1 if anything is."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = archive.read(metadata).decode()
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    wanted = packaged()
    problems = [f"the wheel lacks {name}" for name in sorted(wanted - held)]
    problems += [f"the wheel holds {name}" for name in sorted(held - wanted)]
    stated = {name.replace("genaf_sdk/export/", "export/") for name in wanted}
    problems += [
        f"the sdist lacks {name}" for name in sorted({"pyproject.toml", "LICENSE"} | stated) if name not in sources
    ]
    problems += [f"the description links to {link}" for link in re.findall(r"\]\((?!https?:|#)([^)]*)", described)]
    if "## Install" not in described:
        problems.append("the description is not the README")
    if wheel.stat().st_size > LARGEST:
        problems.append(f"the wheel has {wheel.stat().st_size:,} bytes")
    with tempfile.TemporaryDirectory() as place:
        install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", place, str(wheel)]
        subprocess.run([sys.executable, "-m", *install], check=True)
        environment = os.environ | {"PYTHONPATH": place}
        done = subprocess.run([sys.executable, "-c", RUN, place], cwd=place, env=environment, check=False)
        problems += ["the wheel does not run"] if done.returncode else []
    print("\n".join(problems) or f"{wheel.name}: {len(held)} files, {wheel.stat().st_size:,} bytes; {sdist.name}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
