"""A bundle's bill of materials, in CycloneDX: what the model was made from and with, by source, license and hash."""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from genaf_sdk._version import __version__
from genaf_sdk.data.published import PUBLISHED
from genaf_sdk.encoders import known_encoders
from genaf_sdk.errors import OutputError
from genaf_sdk.export.layout import BILL_FILE, WEIGHTS_FILE, model_files
from genaf_sdk.export.outcome import Item, recomputed
from genaf_sdk.files import read_json, replacing
from genaf_sdk.models.checksums import digest
from genaf_sdk.report.data import PACKAGES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

    from genaf_sdk.report.robustness import RobustnessReport

PROJECT = "genaf-sdk"
EXTRAS = ("", "autoattack", "datasets", "energy", "signing", "transformers")
"""Parts of the package that a run may use; those for work on the package are no material of a model."""
ON_THE_HUB = re.compile(r"(?:hf-hub:|hub:)?([\w.-]+)/([\w.-]+)(?:@([0-9a-f]{40}))?")
LONGEST_LICENSE = 80
"""Characters; some packages give the whole text as its name."""


def can_write_bill() -> bool:
    """Whether the library that writes bills is installed, which the extra ``signing`` brings."""
    return find_spec("cyclonedx") is not None


def write_bill(folder: Path, encoder: str, report: RobustnessReport | None, *, license_id: str = "") -> None:
    """Write ``bom.cdx.json`` into a folder that holds the bundle's models.

    It names the files of the model; the published encoder, with source, license and hash of its weights; the data,
    with license and fingerprint; and every package that the installed ones ask for, with version, license and hash.
    Of a package, that is the hash of the file it was installed from, where the installer kept it; what is always
    known is a hash over the hashes of its installed files (the property ``genaf:record_sha256``).

    Args:
        folder: The bundle, without its checksums.
        encoder: Id of the published encoder, or the type of a module of the user's own.
        report: What was measured, or None.
        license_id: The model's license; empty states none.

    Raises:
        OutputError: The file cannot be written.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import OutputFormat, make_outputter
    from cyclonedx.schema import SchemaVersion

    files = [
        Component(name=name, bom_ref=name, type=ComponentType.FILE, hashes=_hashes(digest(folder / name)))
        for name in [*model_files([path.name for path in folder.iterdir()]), WEIGHTS_FILE]
    ]
    model = Component(
        name="Hardened image classifier",
        bom_ref="model",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        licenses=_licenses(license_id),
        components=files,
    )
    bom = Bom()
    bom.metadata.component = model
    materials = [_base_model(encoder, report), *([] if report is None else [_data(report)])]
    packages = _packages()
    for component in [*materials, *(component for component, _ in packages.values())]:
        bom.components.add(component)
    bom.register_dependency(model, [*materials, *([packages[PROJECT][0]] if PROJECT in packages else [])])
    for component, needed in packages.values():
        bom.register_dependency(component, [packages[name][0] for name in needed if name in packages])
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    with replacing(folder / BILL_FILE) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def check_bill(folder: Path, report: RobustnessReport) -> list[Item]:
    """Hold the hashes in a bill against the bundle's files and its report; a bundle without a bill states none."""
    if not (folder / BILL_FILE).is_file():
        return []
    try:
        content = read_json(folder / BILL_FILE)
        model = content["metadata"]["component"]
        stated = {entry["name"]: _sha256(entry) for entry in model["components"]}
        materials = {entry["bom-ref"]: _sha256(entry) for entry in content["components"]}
        names = {entry["bom-ref"]: entry["name"] for entry in content["components"]}
    except (OutputError, LookupError, TypeError, AttributeError):
        return [recomputed(BILL_FILE, False, "", "it is no bill of a bundle")]
    found = {
        name: digest(folder / name)
        for name in [*model_files([path.name for path in folder.iterdir()]), WEIGHTS_FILE]
        if (folder / name).is_file()
    }
    provenance = report.provenance
    encoder = "" if provenance is None else provenance.encoder_sha256
    differing = [name for name in sorted({*found, *stated}) if stated.get(name) != found.get(name)]
    differing += [] if materials.get("encoder") == encoder else ["the encoder's hash"]
    differing += [] if materials.get("data") == report.data.fingerprint else ["the data's fingerprint"]
    differing += [] if names.get("data") == report.data.name else ["the data's name"]
    differing += [] if provenance is None or names.get("encoder") == provenance.encoder else ["the encoder's name"]
    return [recomputed(BILL_FILE, not differing, f"{len(stated)} files, encoder, data", ", ".join(differing))]


def _sha256(entry: dict[str, Any]) -> str:
    return next((str(found["content"]) for found in entry.get("hashes", []) if found["alg"] == "SHA-256"), "")


def _base_model(encoder: str, report: RobustnessReport | None) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    known = {entry.id: entry.license for entry in known_encoders()}
    match = ON_THE_HUB.match(encoder) if encoder.startswith(("hf-hub:", "timm/")) else None
    provenance = None if report is None else report.provenance
    return Component(
        name=encoder,
        bom_ref="encoder",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        version=match[3] if match else (__version__ if encoder.startswith("bundled:") else None),
        description="The published encoder; its hash is over names, shapes, types and values of its weights.",
        hashes=[] if provenance is None else _hashes(provenance.encoder_sha256),
        licenses=_licenses(known.get(encoder, "")),
        purl=PackageURL("huggingface", match[1], match[2], match[3]) if match else None,
    )


def _data(report: RobustnessReport) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.component import Component, ComponentType

    known = PUBLISHED.get(report.data.name)
    url = "" if known is None else known.url
    return Component(
        name=report.data.name,
        bom_ref="data",
        type=ComponentType.DATA,
        description="The images of the task; their hash is the fingerprint of all images and labels.",
        hashes=_hashes(report.data.fingerprint),
        licenses=_licenses("" if known is None else known.license),
        external_references=[ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(url))] if url else [],
    )


def _packages() -> dict[str, tuple[Component, list[str]]]:
    """Return every installed package that this one needs, directly or not, and what each of them needs."""
    found: dict[str, tuple[Component, list[str]]] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [(PROJECT, EXTRAS)]
    try:
        distribution(PROJECT)
    except PackageNotFoundError:  # run from its source: what it imports is known all the same
        waiting = [(name, ("",)) for name in PACKAGES]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of an extra that is not installed
            continue
        needed = list(_needed(package, extras))
        component, others = found.get(name) or (_library(name, package), [])
        found[name] = (component, sorted({*others, *(other for other, _ in needed)}))
        waiting += [entry for entry in needed if entry not in seen]
        seen.update(needed)
    return found


def _needed(package: Distribution, extras: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for line in package.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield canonicalize_name(requirement.name), ("", *sorted(requirement.extras))


def _library(name: str, package: Distribution) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    record = package.read_text("RECORD")
    return Component(
        name=name,
        bom_ref=f"pkg:pypi/{name}",
        type=ComponentType.LIBRARY,
        version=package.version,
        hashes=_hashes(_installed_from(package)),
        licenses=_licenses(_license_of(package)),
        purl=PackageURL("pypi", name=name, version=package.version),
        properties=[]
        if record is None
        else [Property(name="genaf:record_sha256", value=hashlib.sha256(record.encode()).hexdigest())],
    )


def _license_of(package: Distribution) -> str:
    about = package.metadata
    stated = next((about[name] for name in ("License-Expression", "License") if name in about), "")
    if stated and len(stated) <= LONGEST_LICENSE and stated.isprintable():
        return stated
    classified = [line for line in about.get_all("Classifier") or () if line.startswith("License :: ")]
    return classified[0].rpartition(" :: ")[2] if classified else ""


def _installed_from(package: Distribution) -> str:
    """Return the SHA-256 of the file that a package was installed from, where the installer wrote it down (PEP 610)."""
    found = re.search(r'"sha256": *"([0-9a-f]{64})"', package.read_text("direct_url.json") or "")
    return found[1] if found else ""


def _hashes(value: str) -> list[Any]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=value)] if value else []


def _licenses(text: str) -> list[License]:
    """Return a license as SPDX spells it, where it is one of its list or made of those, else by its name."""
    from cyclonedx import spdx
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression

    if not text:
        return []
    known = spdx.fixup_id(text)
    if known:
        return [DisjunctiveLicense(id=known)]
    return [LicenseExpression(text) if spdx.is_expression(text) else DisjunctiveLicense(name=text)]
