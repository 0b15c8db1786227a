"""A bundle is held against itself and against data: whatever a forger changes, and however well it is sealed again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import marshal
import re
from collections.abc import Callable
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from forging import Json, differences, edit, perturbations, report, rewrite, rows, sealed
from safetensors.torch import load_file, save_file

from genaf_sdk.claims import check_claims
from genaf_sdk.cli import CHECK_FAILED, DONE, USAGE_ERROR, main
from genaf_sdk.data import DataSplits
from genaf_sdk.encoders import load_encoder
from genaf_sdk.errors import ExportError, GenafError
from genaf_sdk.export.integrity import seal
from genaf_sdk.export.layout import BILL_FILE, EVAL_RESULTS_FILE
from genaf_sdk.export.outcome import WEIGHTS_TIE, Outcome
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Check, Failure
from genaf_sdk.verification import verify


def graph(folder: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / name)
    change(model)
    onnx.save(model, folder / name)


def reverse_logits(model: onnx.ModelProto) -> None:
    output = model.graph.output[0].name
    for node in model.graph.node:
        for index, made in enumerate(node.output):
            if made == output:
                node.output[index] = "forward_logits"
    order = onnx.numpy_helper.from_array(torch.arange(9, -1, -1).numpy(), "reversed_order")
    model.graph.initializer.append(order)
    model.graph.node.append(onnx.helper.make_node("Gather", ["forward_logits", "reversed_order"], [output], axis=1))


def reverse_names(folder: Path) -> None:
    def of_graph(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == "class_names":
                entry.value = json.dumps(json.loads(entry.value)[::-1])

    edit(folder, "labels.json", lambda names: names[::-1])
    edit(folder, "config.json", lambda config: config.update(class_names=config["class_names"][::-1]))
    edit(folder, "report.json", lambda report: report["data"].update(class_names=report["data"]["class_names"][::-1]))
    for path in folder.glob("model*.onnx"):
        graph(folder, path.name, of_graph)
    rewrite(folder)


def other_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(1)
    changed = {name: torch.randn_like(value) if value.is_floating_point() else value for name, value in weights.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    seal(folder)


def scaled(factor: float) -> Callable[[Perturbation], Perturbation]:
    def change(found: Perturbation) -> Perturbation:
        values = found.values * factor if found.mask is None else found.values
        return Perturbation(values, found.threat, found.mask, found.key, found.details)

    return change


def encoder(folder: Path, name: str) -> None:
    """Let the bundle name another encoder; without a name, that of config.json alone goes."""
    edit(folder, "config.json", lambda config: config.update(encoder=name))
    if name:
        report_encoder(folder, name)
    rewrite(folder)


def report_encoder(folder: Path, name: str) -> None:
    """Let report and bill name another encoder, or the class of a module."""
    for part in ("model", "provenance"):
        edit(folder, "report.json", lambda report, part=part: report[part].update(encoder=name))
    if (folder / BILL_FILE).exists():
        edit(folder, BILL_FILE, lambda bill: named(bill, "encoder").update(name=name))


def named(bill: Json, reference: str) -> Json:
    found: Json = next(entry for entry in bill["components"] if entry["bom-ref"] == reference)
    return found


def variants(**changes: float) -> Callable[[Path], None]:
    """State something else of the half-precision graph."""

    def change(folder: Path) -> None:
        edit(folder, "report.json", lambda report: report["onnx"]["variants"][0].update(changes))
        rewrite(folder)

    return change


def claim_of_the_hub(folder: Path) -> None:
    (folder / EVAL_RESULTS_FILE).parent.mkdir()
    (folder / EVAL_RESULTS_FILE).write_text("- dataset: {id: org/digits, task_id: clean}\n  value: 1.0\n")


def unnamed(folder: Path) -> None:
    """Other weights, and no name from which anybody could build the encoder that they are for."""
    other_weights(folder)
    if (folder / BILL_FILE).exists():
        edit(folder, BILL_FILE, lambda bill: state_hash(bill, folder / "model.safetensors"))
    report_encoder(folder, "ResNet")
    encoder(folder, "")


def state_hash(bill: Json, path: Path) -> None:
    entry = next(part for part in bill["metadata"]["component"]["components"] if part["name"] == path.name)
    entry["hashes"][0]["content"] = hashlib.sha256(path.read_bytes()).hexdigest()


def tenfold(folder: Path) -> None:
    """State ten times the budget, in files and rows alike."""

    def larger(found: Perturbation) -> Perturbation:
        threat = type(found.threat)(min(1.0, 10 * found.budget))
        return Perturbation(found.values, threat, found.mask, found.key, found.details)

    perturbations(folder, larger)
    rows(folder, lambda row: row.update(budget=min(1.0, 10 * row["budget"])) if row["perturbation"] else None)


def invented(folder: Path) -> None:
    """White-box attacks that were never run, all images right."""
    row = {"model": "hardened", "column": "white-box", "budget": 16 / 255, "n": 200, "correct": 200, "changed": 0}
    more = [{**row, "attack": name, "crafted_on": "test"} for name in ("autoattack", "apgd-ce", "square")]
    edit(folder, "report.json", lambda report: report["scores"].extend(more))
    rewrite(folder)


def flattered(folder: Path) -> None:
    """All attacked rows as good as the clean one."""
    clean = next(r for r in json.loads((folder / "report.json").read_text())["scores"] if r["model"] == "hardened")
    rows(folder, lambda row: row.update(correct=clean["correct"]) if row["perturbation"] else None)


def one_image(folder: Path) -> None:
    rows(folder, lambda row: row.update(n=1, correct=1, changed=0))
    edit(folder, "report.json", lambda report: report.update(classes={}))
    rewrite(folder)


PARTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "rows": (flattered, "hardened adaptive uapgd: "),
    "inventions": (invented, "hardened white-box autoattack: 200 of 200 right (100.0%): more than without an attack"),
    "perturbations": (lambda f: perturbations(f, scaled(0.0)), "0/255, 0% of the budget"),
    "weights": (other_weights, "model.safetensors against model.onnx: the same logits: they differ by"),
    "page": (lambda f: (f / "report.html").write_text("<h1>100 %</h1>"), "report.html: : it is not the page"),
    "card": (lambda f: (f / "README.md").write_text("---\n---\n100 %"), "README.md: : does not follow"),
    "names": (lambda f: reverse_names_in_files(f), "has the fingerprint"),
    "garbage": (lambda f: (f / "model.fp16.onnx").write_bytes(bytes(10_000)), "model.fp16.onnx is no ONNX file"),
}
"""What a wholly forged bundle consists of, in the order of forging, and why each part alone is refused."""
HIDDEN = {"garbage": set(PARTS) - {"garbage"}, "names": set(PARTS) - {"names"}, "perturbations": {"rows"}}
"""Reasons that are not seen before a part is mended: the first two end the verification."""
MENDED = ("nothing", "garbage", "names", "perturbations", "weights", "page", "card", "rows")
"""The forger mends one part after another."""


def reverse_names_in_files(folder: Path) -> None:
    edit(folder, "labels.json", lambda names: names[::-1])
    edit(folder, "config.json", lambda config: config.update(class_names=config["class_names"][::-1]))


def milder(content: Json) -> None:
    """Count the classes under noise, and call it the strongest attack."""
    noise = next(row for row in content["scores"] if row["column"] == "noise")
    counted = content["classes"]["hardened"]
    counted.update({name: noise[name] for name in ("column", "attack", "perturbation")})


def dotted(found: Perturbation) -> Perturbation:
    """Keep one value at the edge of the budget, and nothing else."""
    values = torch.zeros_like(found.values)
    values[0, 0, 0] = found.budget
    return found if found.mask is not None else Perturbation(values, found.threat, None, found.key, found.details)


def without(section: str, attack: str) -> Callable[[Path], None]:
    """Leave out what rows or points say of an attack."""
    return report(lambda r: r.update({section: [row for row in r[section] if row["attack"] != attack]}))


def of_pgd(**changes: Any) -> Callable[[Path], None]:
    return lambda f: rows(f, lambda row: row.update(changes) if row["attack"] == "pgd" else None)


def passed(name: str) -> Callable[[Path], None]:
    return report(lambda r: r.update(checks=[{"name": name, "passed": True, "figures": "all is well"}]))


def all_right(gallery: Json) -> None:
    for models in gallery["predictions"].values():
        models["hardened"] = [image["label"] for image in gallery["images"]]


HUGE_CLASSES = {"n": [10**6] * 10, "clean": [10**6] * 10, "attacked": None}
FORGERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "rows that flatter": (flattered, "hardened adaptive uapgd"),
    "a count that is off by three": (
        lambda f: rows(f, lambda row: row.update(correct=row["correct"] + 3) if row["column"] == "clean" else None),
        "hardened clean",
    ),
    "one image a row": (one_image, "at least 100"),
    "rows that were never measured": (invented, "more than without an attack"),
    "perturbations of zeros": (lambda f: perturbations(f, scaled(0.0)), "0/255, 0% of the budget"),
    "perturbations at a fiftieth": (lambda f: perturbations(f, scaled(0.02)), "2% of the budget"),
    "budgets ten times as large": (tenfold, "10% of the budget"),
    "other weights": (other_weights, "model.safetensors against model.onnx"),
    "a half-precision graph that answers backwards": (
        sealed(lambda f: graph(f, "model.fp16.onnx", reverse_logits)),
        "model.fp16.onnx against model.onnx",
    ),
    "class names backwards everywhere": (reverse_names, "the report's has"),
    "class names backwards in the labels": (
        sealed(lambda f: edit(f, "labels.json", lambda names: names[::-1])),
        "class names",
    ),
    "another page": (sealed(lambda f: (f / "report.html").write_text("<h1>100 %</h1>")), "report.html"),
    "another card": (sealed(lambda f: (f / "README.md").write_text("---\n---\n100 %")), "README.md"),
    "results for a data set of the Hub's": (sealed(claim_of_the_hub), ".eval_results/robustness.yaml"),
    "an encoder that nobody can build": (
        lambda f: (other_weights(f), encoder(f, "timm/no_such_model")),
        "model.safetensors against model.onnx: one model: ",
    ),
    "no encoder, though there is one": (lambda f: (other_weights(f), encoder(f, "")), "encoder in the report"),
    "another verdict": (
        sealed(lambda f: edit(f, "report.json", lambda r: r.update(verdict="Accuracy: 100 %."))),
        "verdict",
    ),
    "more test images than there are": (
        lambda f: (edit(f, "report.json", lambda r: r["data"]["sizes"].update(test=100_000)), rewrite(f)),
        "number of images",
    ),
    "classes of more images than there are": (
        lambda f: (edit(f, "report.json", lambda r: r["classes"].update(hardened=HUGE_CLASSES)), rewrite(f)),
        "classes, clean: 10000000 of 10000000: n is 10000000 of 450",
    ),
    "a parity that is said and not stated": (
        lambda f: (edit(f, "report.json", lambda r: r["onnx"].update(text="No difference at all.")), rewrite(f)),
        "parity in words",
    ),
    "a smaller file that loses nothing": (
        variants(largest_loss=-0.5),
        "largest loss of model.fp16.onnx",
    ),
    "a smaller file that agrees less": (
        variants(agreement=0.5),
        "agreement of model.fp16.onnx with model.onnx: 50.00%",
    ),
    "a smaller file of another size": (variants(bytes=1000), "bytes of model.fp16.onnx: 1000: "),
    "shares that do not follow from counts": (
        sealed(lambda f: edit(f, "report.json", lambda r: r["scores"][2].update(accuracy=1.0))),
        "shares and intervals of scores",
    ),
    "another server": (sealed(lambda f: (f / "serve/models.py").write_text("import os")), "serve/"),
    "a row of another attack": (
        lambda f: rows(f, lambda row: row.update(attack="autoattack") if row["perturbation"] else None),
        "a row says autoattack",
    ),
    "predictions that did not change": (
        lambda f: rows(f, lambda row: row.update(changed=0) if row["column"] == "adaptive" else None),
        "hardened adaptive uapgd: 0 of 450 predictions changed",
    ),
    "predictions that did not change, though fewer are right": (
        lambda f: rows(f, lambda row: row.update(changed=0) if row["crafted_on"] == "test" else None),
        "are no longer right, and each of them has changed",
    ),
    "more tries than there were": (
        lambda f: rows(f, lambda row: row.update(tries=12) if row["perturbation"] else None),
        "the strongest of 12 tries, the file None",
    ),
    "an attack that is said to have ended": (
        lambda f: rows(f, lambda row: row.update(converged=None) if "converged" in row else None),
        "a row says converged: None",
    ),
    "a row that is said to be another model's": (
        lambda f: rows(f, lambda row: row.update(model="undefended") if row["column"] == "transfer" else None),
        "no row says what it does to the hardened model",
    ),
    "a perturbation that is said not to be saved": (
        lambda f: rows(f, lambda row: row.update(perturbation="") if row["column"] == "adaptive" else None),
        "hardened adaptive uapgd: one perturbation for all images: it is not saved",
    ),
    "a curve above the clean images": (
        report(lambda r: [p.update(n=450, correct=450) for p in r["curve"] if p["column"] == "white-box"]),
        "curve: hardened white-box pgd at 16/255",
    ),
    "fewer confusions": (
        report(lambda r: r["classes"]["hardened"]["confusions"].clear()),
        "classes, confusions: ",
    ),
    "classes under a milder attack": (report(milder), "classes, under which attack: noise noise"),
    "more parameters": (
        report(lambda r: r["model"].update(parameters=10**9)),
        "parameters of the model in the report: 1000000000",
    ),
    "a larger model": (report(lambda r: r["model"].update(image_size=[224, 224])), "sizes of the model in the report"),
    "a smaller file that is said not to be there": (
        variants(written=False),
        "model.fp16.onnx: not written: it is in the bundle",
    ),
    "perturbations of one value": (lambda f: perturbations(f, dotted), "its mean value is 0.013/255, 0% of the budget"),
    "an attack that is left out": (without("scores", "pgd"), "no row of white-box pgd, 8/255"),
    "a curve that leaves an attack out": (without("curve", "pgd"), "no point of white-box pgd at 16/255"),
    "an attack at a larger budget": (of_pgd(budget=16 / 255), "no row of white-box pgd, 8/255"),
    "an attack on fewer images": (of_pgd(n=1, correct=1, changed=0), "white-box pgd: n is 1 instead of 30"),
    "a perturbation that is said to be a patch": (of_pgd(threat="patch"), "pgd: it makes a perturbation"),
    "an attack that is said to know less": (of_pgd(column="transfer"), "pgd: it is of the column white-box"),
    "an attack that is said to perturb each image by itself": (
        lambda f: rows(f, lambda row: row.update(crafted_on="test") if row["attack"] == "uapgd" else None),
        "hardened adaptive uapgd: it perturbs all images alike",
    ),
    "a point that is not what the table says": (
        report(lambda r: [p.update(correct=p["correct"] - 40) for p in r["curve"] if p["column"] == "adaptive"]),
        "adaptive uapgd at 10/255 is not what the table says",
    ),
    "a check that is said to have passed": (
        lambda f: (
            passed("Every attack is at least as strong as noise")(f),
            rows(f, lambda row: row.update(correct=0, changed=450) if row["column"] == "noise" else None),
        ),
        "check: Every attack is at least as strong as noise: all is well: noise 0.0%",
    ),
    "checks of which some are left out": (passed("invented"), "An unbounded attack succeeds"),
    "a smaller file under fewer perturbations": (
        report(lambda r: r["onnx"]["variants"][0].update(replay=r["onnx"]["variants"][0]["replay"][:1])),
        "what model.fp16.onnx was put under",
    ),
    "an attack that is said to have converged": (
        lambda f: rows(f, lambda row: row.update(converged=True) if row["attack"] == "advencoder-pat" else None),
        "a row says converged: True, the file None",
    ),
    "a gallery in which all is right": (report(lambda r: all_right(r["gallery"])), "gallery: 6 images: "),
    "a gallery of other images": (
        report(lambda r: r["gallery"]["images"][0].update(png=r["gallery"]["images"][1]["png"])),
        "other pictures than the test images",
    ),
    "a gallery that leaves a perturbation out": (
        report(lambda r: r["gallery"]["predictions"].pop("adaptive-uapgd-hardened")),
        "left out: adaptive-uapgd-hardened",
    ),
    "a perturbation that is missing": (
        sealed(lambda f: next((f / "perturbations").glob("adaptive-uapgd*")).unlink()),
        "it is missing",
    ),
}


def test_a_sound_bundle_agrees_and_says_what_was_not_replayed(sound: Path, digits: DataSplits) -> None:
    found = verify(sound, digits)
    assert found.agrees, differences(found)
    whats = {item.what: item for item in found.items}
    for column in ("clean", "noise noise", "transfer uapgd", "adaptive uapgd", "adaptive advencoder-pat"):
        assert whats[f"hardened {column}"].outcome == Outcome.REPLAYED
    assert whats["hardened white-box pgd"].outcome == Outcome.NOT_REPLAYED
    assert whats["curve: hardened adaptive uapgd at 10/255"].outcome == Outcome.RECOMPUTED
    assert whats["curve: hardened adaptive uapgd at 16/255"].outcome == Outcome.NOT_REPLAYED
    assert whats["model.safetensors against model.onnx"].agrees
    assert whats["model.fp16.onnx against model.onnx"].agrees
    assert whats["agreement of model.fp16.onnx with model.onnx"].outcome == Outcome.REPLAYED
    assert "not who made them" in found.summary
    assert whats["classes, confusions"].outcome == Outcome.REPLAYED
    for section in ("versions", "notes", "data.notes", "onnx.parity"):
        assert whats[f"section {section!r}"].outcome == Outcome.NOT_REPLAYED
    stated = RobustnessReport.load(sound)
    assert len([w for w in whats if w.startswith(("hardened", "undefended"))]) == len(stated.scores)
    assert len([w for w in whats if w.startswith("curve")]) == len(stated.curve)


@pytest.mark.parametrize("last", MENDED)
def test_a_wholly_forged_bundle_is_refused_for_every_part_that_is_still_forged(
    last: str, forged: Path, digits: DataSplits
) -> None:
    left = [part for part in PARTS if part not in MENDED[: MENDED.index(last) + 1]]
    for part in left:
        PARTS[part][0](forged)
    seal(forged)
    said = refusal(forged, digits)
    seen = set(left).difference(*(HIDDEN.get(part, set()) for part in left))
    if {"names", "garbage"} <= set(left):
        seen = {"garbage"}
    assert seen
    for part in seen:
        assert PARTS[part][1] in said, part


def refusal(folder: Path, data: DataSplits) -> str:
    """Return why a bundle is refused."""
    try:
        found = verify(folder, data)
    except GenafError as error:
        return str(error)
    assert not found.agrees
    return differences(found)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused_with_the_reason(name: str, forged: Path, digits: DataSplits) -> None:
    forge, reason = FORGERIES[name]
    forge(forged)
    assert reason in refusal(forged, digits)


def claims(report: RobustnessReport, *, same_version: bool = True) -> str:
    items = check_claims(report, same_version=same_version)
    return " | ".join(f"{item.what}: {item.found}" for item in items if item.agrees is False)


def test_an_attack_that_failed_and_one_of_another_package_are_accounted_for(sound: Path) -> None:
    report = RobustnessReport.load(sound)
    assert claims(report) == ""
    report.scores = [row for row in report.scores if row.attack != "pgd"]
    assert claims(report) == "attacks of the settings: no row of white-box pgd, 8/255"
    report.failures = [Failure("attack", "pgd", "out of memory", "white-box", "hardened")]
    assert claims(report) == ""
    assert report.config is not None
    report.config["evaluation"]["attacks"] += ["mine:steps=2"]
    assert claims(report) == "attacks of the settings: no row of mine"
    report.scores.append(dataclasses.replace(report.scores[-1], attack="mine"))
    assert claims(report) == ""
    report.config["evaluation"]["attacks"] += ["uapgd:invented=1"]
    assert claims(report) == "", "there is a row of its name"
    report.failures = []
    assert claims(report) == "attacks of the settings: no row of white-box pgd, 8/255", "it hides nothing else"


def test_of_a_report_that_says_nothing_of_its_evaluation_nothing_is_missed(sound: Path) -> None:
    report = RobustnessReport.load(sound)
    assert report.config is not None
    for stated, why in ((None, "does not say"), ({"attacks": "pgd"}, "attacks is 'pgd'"), ({"x": 1}, "x")):
        report.config["evaluation"] = stated
        unknown = next(item for item in check_claims(report, same_version=True) if "settings" in item.what)
        assert unknown.outcome == Outcome.NOT_REPLAYED
        assert why in unknown.found


def test_checks_of_another_version_are_not_judged(sound: Path) -> None:
    report = RobustnessReport.load(sound)
    report.checks = [Check("invented", True, "")]
    assert "which checks there are: " in claims(report)
    assert claims(report, same_version=False) == ""


def test_what_was_invented_and_cannot_be_measured_is_listed_as_such(forged: Path, digits: DataSplits) -> None:
    def invent(report: Json) -> None:
        report["scores"].append(
            {**report["scores"][-1], "model": "hardened", "column": "white-box", "attack": "square"}
        )
        report["scores"][-1] |= {"crafted_on": "test", "n": 100, "correct": 10, "changed": 90, "perturbation": ""}
        report["curve"].append({**report["curve"][0], "attack": "square"})
        report["checks"].append({"name": "invented", "passed": True, "figures": ""})

    edit(forged, "report.json", invent)
    rewrite(forged)
    items = {item.what: item for item in verify(forged, digits).items}
    for what in ("hardened white-box square", "check: invented"):
        assert items[what].outcome == Outcome.NOT_REPLAYED
    assert [item for what, item in items.items() if what.startswith("curve") and "square" in what]
    assert all(item.agrees is None for what, item in items.items() if "square" in what)


def test_a_file_that_no_bundle_has_is_listed_as_not_looked_at(forged: Path, digits: DataSplits) -> None:
    (forged / "modeling.py").write_text("what a reader might run")
    (forged / "README.md.sh").write_text("the same")
    seal(forged)
    items = {item.what: item for item in verify(forged, digits).items}
    for name in ("modeling.py", "README.md.sh"):
        assert (items[name].outcome, items[name].agrees) == (Outcome.NOT_REPLAYED, None)


def test_weights_that_nothing_can_rebuild_are_said_to_be_unknown(forged: Path, digits: DataSplits) -> None:
    unnamed(forged)
    found = verify(forged, digits)
    assert found.agrees, differences(found)
    assert "but for model.safetensors, which could not be compared" in found.summary
    assert "backbone=" in next(item.found for item in found.items if item.what == WEIGHTS_TIE)
    found = verify(forged, digits, backbone=load_encoder("bundled:simclr-cifar10").backbone)
    assert [item.what for item in found.differences] == [WEIGHTS_TIE]


def test_no_encoder_is_loaded_from_a_bundle_that_was_altered(forged: Path) -> None:
    assert load_encoder(forged, image_size=(24, 24)).image_size == (24, 24)
    (forged / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt .*is not listed"):
        load_encoder(forged)
    assert load_encoder(HardenedModel.from_pretrained(forged, check_files=False)).source
    (forged / "notes.txt").unlink()
    with (forged / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ExportError, match=r"model\.safetensors .*is not the file that was written"):
        load_encoder(forged)


def test_a_model_is_not_loaded_from_a_bundle_that_was_altered(forged: Path, sound: Path) -> None:
    assert HardenedModel.from_pretrained(sound).class_names
    (forged / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt .*is not listed"):
        HardenedModel.from_pretrained(forged)
    (forged / "notes.txt").unlink()
    for name in ("model.safetensors", "labels.json"):
        content = (forged / name).read_bytes()
        changed = bytearray(content)
        changed[-1] ^= 1
        (forged / name).write_bytes(changed)
        with pytest.raises(ExportError, match=f"{name} .*is not the file that was written"):
            HardenedModel.from_pretrained(forged)
        assert HardenedModel.from_pretrained(forged, check_files=False).class_names
        (forged / name).write_bytes(content)
    (forged / "labels.json").unlink()
    with pytest.raises(ExportError, match=r"labels\.json .*is missing"):
        HardenedModel.from_pretrained(forged)
    (forged / "checksums.json").unlink()
    assert HardenedModel.from_pretrained(forged).class_names, "no bundle: what save_pretrained writes has no list"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "labels.json").write_text("[]"), "labels.json"),
        (lambda f: (f / "checksums.json").unlink(), "holds no whole bundle"),
        (lambda f: (f / "checksums.json").write_text("[]"), "states no checksums"),
        (lambda f: (f / "checksums.json").write_text('{"sha256": {"../x": "00"}}'), "paths inside the folder"),
        (lambda f: (f / "prometheus_client.py").write_text("import os"), "prometheus_client.py"),
        (lambda f: (f / "model.fp16.onnx").unlink(), "model.fp16.onnx in .* is missing"),
    ],
)
@pytest.mark.parametrize("command", ["verify", "report", "evaluate", "export"])
def test_checksums_come_first(
    command: str,
    change: Callable[[Path], object],
    message: str,
    forged: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(forged.parent)
    change(forged)
    if command != "verify" and "holds no whole" in message:
        return  # a folder without a list is no bundle, and may hold a report
    assert main([command, str(forged)]) == USAGE_ERROR
    assert not (forged.parent / "model.onnx").exists()
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_a_compiled_file_that_no_list_names_is_refused(forged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = forged / "serve" / "__pycache__"
    cache.mkdir()
    code = marshal.dumps(compile("raise SystemExit('ran')", "settings.py", "exec"))
    (cache / "settings.cpython-311.pyc").write_bytes(MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + code)
    assert main(["verify", str(forged)]) == USAGE_ERROR
    said = " ".join(capsys.readouterr().err.split())
    assert "settings.cpython-311.pyc" in said
    assert "remove the folders __pycache__" in said


def test_what_a_run_leaves_beside_its_bundle_is_passed_over(forged: Path, digits: DataSplits) -> None:
    (forged / "checkpoints" / "stage 1").mkdir(parents=True)
    (forged / "checkpoints" / "stage 1" / "x.safetensors").write_bytes(b"x")
    (forged / "metrics.jsonl").write_text("{}")
    assert verify(forged, digits).agrees


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report["data"].update(name="folder:/etc"), "--data FOLDER"),
        (lambda report: report["data"].update(name="hub:evil/set"), "--data FOLDER"),
        (lambda report: report["config"].update(loading={"root": "planted"}), "root"),
        (lambda report: report["config"].update(loading={"balance": 3}), "balance"),
        (lambda report: report["config"].update(seed="x"), "config.seed of the report"),
        (lambda report: report["data"].update(image_shape=[3, 10**6, 10**6]), "image_shape"),
        (lambda report: report["scores"][0].update(n=0), "scores[0].n"),
        (lambda report: report["scores"][0].update(column="x"), "scores[0].column"),
    ],
)
def test_the_report_chooses_neither_data_nor_keywords(
    change: Callable[[Json], object],
    message: str,
    forged: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(forged, "report.json", change)
    seal(forged)
    monkeypatch.chdir(forged.parent)
    before = sorted(forged.parent.rglob("*"))
    assert main(["verify", str(forged)]) == USAGE_ERROR
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(forged.parent.rglob("*")) == before


def test_nothing_is_downloaded_because_a_report_says_so(forged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setenv("GENAF_DATA_ROOT", str(forged.parent / "data"))
    edit(forged, "report.json", lambda report: report["data"].update(name="usps"))
    edit(forged, "report.json", lambda report: report["config"].update(loading={"download": True}))
    seal(forged)
    assert main(["verify", str(forged)]) == USAGE_ERROR
    assert not (forged.parent / "data").exists()


def test_the_command_lists_everything_and_its_exit_code_says_whether_it_agrees(
    sound: Path, forged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(sound), "--json"]) == DONE
    told = json.loads(capsys.readouterr().out)
    assert told["agrees"]
    assert {item["outcome"] for item in told["items"]} == {"replayed", "recomputed", "not replayed"}
    flattered(forged)
    assert main(["verify", str(forged)]) == CHECK_FAILED
    assert "DIFFER" in capsys.readouterr().out


def test_checksums_state_what_is_there(sound: Path) -> None:
    stated = json.loads((sound / "checksums.json").read_text())["sha256"]
    for name, value in stated.items():
        assert hashlib.sha256((sound / name).read_bytes()).hexdigest() == value
