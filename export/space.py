"""A Space of the Hub over a bundle: the bundle as it is, and beside it what starts its page."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from huggingface_hub import SpaceCardData
from packaging.requirements import Requirement

from genaf_sdk.errors import ExportError
from genaf_sdk.export.card import card_metadata
from genaf_sdk.export.integrity import BundleFile, publishable
from genaf_sdk.export.layout import CARD_FILE, SERVE_FOLDER
from genaf_sdk.files import replacing

if TYPE_CHECKING:
    from pathlib import Path

BUNDLE_FOLDER, APP_FILE, REQUIREMENTS_FILE = "bundle", "app.py", "requirements.txt"
SPACE_REQUIREMENTS = f"{SERVE_FOLDER}/requirements-space.txt"
PYTHON = "3.13"
APP = f'''"""A page over {BUNDLE_FOLDER}/: a picture before and after a saved perturbation."""

import sys
from pathlib import Path

BUNDLE = Path(__file__).parent / "{BUNDLE_FOLDER}"
sys.path.insert(0, str(BUNDLE))

from serve.space.app import launch  # noqa: E402

launch(BUNDLE)
'''
TEXT = """# Before and after a perturbation

A classifier on a public encoder, fine-tuned to withstand perturbations that are crafted from that encoder. Drop a
picture and see the answer before and after a perturbation of its evaluation. `bundle/` holds the model, its report and
the perturbations; `genaf verify bundle` replays them.

To run it elsewhere: `pip install -r ./requirements.txt && python app.py`.
"""


def write_space(bundle: Path, folder: Path) -> list[BundleFile]:
    """Write a Space into a folder and return its files.

    Args:
        bundle: A whole bundle.
        folder: Empty, or yet to be made.

    Raises:
        ExportError: The bundle is not whole, a file is a link, or an older version wrote it, without a page.
        OutputError: A file cannot be written.
    """
    names = [file.name for file in publishable(bundle)]
    if SPACE_REQUIREMENTS not in names:
        raise ExportError(
            f"{bundle} has no {SPACE_REQUIREMENTS}: an older version wrote it.",
            expected="a bundle whose serve/ has the page of a Space",
            remedy="write the bundle again",
        )
    for name in names:
        target = folder / BUNDLE_FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / name, target)
    requirements = (bundle / SPACE_REQUIREMENTS).read_text(encoding="utf-8")
    license_id = card_metadata((bundle / CARD_FILE).read_text(encoding="utf-8")).get("license")
    written = {APP_FILE: APP, REQUIREMENTS_FILE: requirements, CARD_FILE: _card(requirements, license_id)}
    for name, text in written.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    found = sorted([*written, *(f"{BUNDLE_FOLDER}/{name}" for name in names)])
    return [BundleFile(name, (folder / name).stat().st_size) for name in found]


def _card(requirements: str, license_id: str | None) -> str:
    """Return the Space's README, whose metadata tell the Hub what to start, with the oldest Gradio that will do."""
    stated = next(Requirement(line) for line in requirements.splitlines() if line.startswith("gradio"))
    metadata = SpaceCardData(
        title="Before and after a perturbation",
        sdk="gradio",
        sdk_version=next(bound.version for bound in stated.specifier if bound.operator == ">="),
        python_version=PYTHON,
        app_file=APP_FILE,
        license=license_id,
        tags=["adversarial-robustness", "image-classification"],
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{TEXT}"
