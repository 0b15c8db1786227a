"""What a forger does to a bundle who knows this package: change a part, write all that follows anew, seal it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genaf_sdk.export.card import model_card
from genaf_sdk.export.consistency import facts_of, read_config
from genaf_sdk.export.integrity import seal
from genaf_sdk.export.outcome import Verification
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.report.robustness import RobustnessReport

Json = dict[str, Any]


def edit(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    content = json.loads((folder / name).read_text())
    changed = change(content)
    (folder / name).write_text(json.dumps(content if changed is None else changed))


def rewrite(folder: Path) -> None:
    """Write everything that follows from the report anew, as a forger who knows this package does, and seal it."""
    report = RobustnessReport.load(folder)
    report.save(folder)
    config = read_config(folder)
    (folder / "README.md").write_text(model_card(facts_of(config, report), report, license_id="mit"))
    seal(folder)


def rows(folder: Path, change: Callable[[Json], object]) -> None:
    """Change the rows of the hardened model and rewrite the bundle."""

    def each(content: Json) -> None:
        for row in content["scores"]:
            if row["model"] == "hardened":
                change(row)

    edit(folder, "report.json", each)
    rewrite(folder)


def perturbations(folder: Path, change: Callable[[Perturbation], Perturbation]) -> None:
    for path in (folder / "perturbations").glob("*.safetensors"):
        change(Perturbation.load(path)).save(path)
    seal(folder)


def sealed(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        change(folder)
        seal(folder)

    return changed


def report(change: Callable[[Json], object]) -> Callable[[Path], None]:
    """Change the report and write everything that follows from it anew."""

    def changed(folder: Path) -> None:
        edit(folder, "report.json", lambda content: (change(content), content)[1])
        rewrite(folder)

    return changed


def differences(found: Verification) -> str:
    return " | ".join(f"{item.what}: {item.stated}: {item.found}" for item in found.differences)
