"""The bill of materials: valid CycloneDX, whole, and tied to the bundle that it lies in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from export_helpers import Made

from genaf_sdk.data import DataSplits
from genaf_sdk.export import bill as bill_module
from genaf_sdk.export.bill import check_bill, write_bill
from genaf_sdk.export.layout import BILL_FILE
from genaf_sdk.models.checksums import digest, listed
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.verification import verify

pytest.importorskip("cyclonedx", reason="the extra `signing` is not installed")

Json = dict[str, Any]


@pytest.fixture
def bill(sound: Path) -> Json:
    content: Json = json.loads((sound / BILL_FILE).read_text())
    return content


def component(content: Json, reference: str) -> Json:
    (found,) = (entry for entry in content["components"] if entry["bom-ref"] == reference)
    return dict(found)


def sha256(entry: Json) -> str:
    (found,) = entry["hashes"]
    assert found["alg"] == "SHA-256"
    return str(found["content"])


def test_it_is_valid_and_listed(sound: Path) -> None:
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert BILL_FILE in listed(sound)
    try:
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str((sound / BILL_FILE).read_text())
    except MissingOptionalDependencyException:
        pytest.skip("cyclonedx-python-lib[json-validation] is not installed")
    assert problem is None


def test_it_names_model_encoder_and_data_by_source_license_and_hash(sound: Path, bill: Json, made: Made) -> None:
    model = bill["metadata"]["component"]
    assert model["licenses"] == [{"license": {"id": "MIT"}}]
    files = {entry["name"]: sha256(entry) for entry in model["components"]}
    assert files == {name: digest(sound / name) for name in ("model.onnx", "model.fp16.onnx", "model.safetensors")}
    provenance = made.report.provenance
    assert provenance is not None
    encoder = component(bill, "encoder")
    assert encoder["name"] == "bundled:simclr-cifar10"
    assert encoder["type"] == "machine-learning-model"
    assert sha256(encoder) == provenance.encoder_sha256
    assert encoder["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    data = component(bill, "data")
    assert (data["name"], data["type"], sha256(data)) == ("digits", "data", made.report.data.fingerprint)


def test_published_data_have_a_license_and_a_page(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bill_module, "_packages", dict)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    report = replace(made.report, data=replace(made.report.data, name="kmnist"))
    write_bill(tmp_path, "bundled:simclr-cifar10", report)
    data = component(json.loads((tmp_path / BILL_FILE).read_text()), "data")
    assert data["licenses"] == [{"license": {"id": "CC-BY-SA-4.0"}}]
    assert data["externalReferences"][0]["url"].startswith("https://")


def test_it_names_every_package_with_its_version(bill: Json) -> None:
    packages = [entry for entry in bill["components"] if entry["type"] == "library"]
    found = {entry["name"]: entry for entry in packages}
    assert {"torch", "onnx", "numpy", "safetensors"} <= set(found)
    assert "pytest" not in found, "what works on the package is no material"
    for name in ("torch", "numpy"):
        assert found[name]["version"] == version(name)
        assert found[name]["purl"] == f"pkg:pypi/{name}@{version(name)}"
        assert found[name]["properties"][0]["name"] == "genaf:record_sha256"
    needed = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    assert {"encoder", "data"} <= set(needed["model"])
    assert "pkg:pypi/numpy" in needed["pkg:pypi/onnx"]
    references = {entry["bom-ref"] for entry in bill["components"]}
    assert {other for others in needed.values() for other in others} <= references


@pytest.mark.parametrize(
    ("encoder", "purl", "revision"),
    [
        (f"hf-hub:org/name@{'a' * 40}", f"pkg:huggingface/org/name@{'a' * 40}", "a" * 40),
        ("timm/resnet18.a1_in1k", "pkg:huggingface/timm/resnet18.a1_in1k", None),
        ("SmallNet", None, None),
    ],
)
def test_an_encoder_of_the_hub_is_named_by_its_commit(
    encoder: str, purl: str | None, revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bill_module, "_packages", dict)
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write_bill(tmp_path, encoder, None)
    entry = component(json.loads((tmp_path / BILL_FILE).read_text()), "encoder")
    assert (entry["name"], entry.get("purl"), entry.get("version")) == (encoder, purl, revision)


def first_hash(entry: Json) -> None:
    entry["hashes"][0]["content"] = "0" * 64


FORGED: dict[str, tuple[Callable[[Json], object], str]] = {
    "a file": (lambda bill: first_hash(bill["metadata"]["component"]["components"][0]), "model."),
    "a file less": (lambda bill: bill["metadata"]["component"]["components"].pop(), "model."),
    "encoder": (
        lambda bill: [first_hash(e) for e in bill["components"] if e["bom-ref"] == "encoder"],
        "encoder's hash",
    ),
    "its name": (
        lambda bill: [e.update(name="x") for e in bill["components"] if e["bom-ref"] == "encoder"],
        "encoder's",
    ),
    "data": (lambda bill: [first_hash(e) for e in bill["components"] if e["bom-ref"] == "data"], "fingerprint"),
    "no bill": (lambda bill: bill.clear(), "no bill"),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_bill_is_found(how: str, forged: Path) -> None:
    change, match = FORGED[how]
    report = RobustnessReport.load(forged)
    (item,) = check_bill(forged, report)
    assert item.agrees, item.found
    content = json.loads((forged / BILL_FILE).read_text())
    change(content)
    (forged / BILL_FILE).write_text(json.dumps(content))
    (item,) = check_bill(forged, report)
    assert item.agrees is False
    assert match in item.found


def test_verification_looks_at_it(forged: Path, digits: DataSplits) -> None:
    found = {item.what: item for item in verify(forged, digits).items}
    assert found[BILL_FILE].agrees is True


def test_a_bundle_without_one_states_nothing(forged: Path) -> None:
    (forged / BILL_FILE).unlink()
    assert check_bill(forged, RobustnessReport.load(forged)) == []
