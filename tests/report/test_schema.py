from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from genaf_sdk import evaluate
from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.errors import ConfigError, OutputError
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.report import schema as schema_module
from genaf_sdk.report.data import SCHEMA
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.schema import report_schema
from genaf_sdk.rows import read_rows

SCHEMA_FILE = Path(schema_module.__file__).with_name("schema.json")


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_report_of_a_real_run_is_valid(bundle: Path, validator: jsonschema.Draft202012Validator) -> None:
    content = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    validator.validate(content)
    described = set(validator.schema["properties"])
    assert set(content) == described, "every section is in the schema, and the run has every section"


def test_the_schema_is_made_from_the_types() -> None:
    stored = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(report_schema())), "run `python tools/write_schema.py`"


def test_the_report_of_a_bare_evaluation_is_valid(
    striped: DataSplits, validator: jsonschema.Draft202012Validator
) -> None:
    config = EvaluationConfig(attacks=("pgd:steps=2",), sample_wise_samples=20, curve=(), checks=False)
    report = evaluate(lambda pixels: pixels.mean((2, 3)), striped, config=config)
    validator.validate(json.loads(json.dumps(report.to_dict())))


DAMAGE = {
    "schema": lambda content: content.update(schema=2),
    "report.scores[0].column": lambda content: content["scores"][0].update(column="gray-box"),
    "report.scores[0]": lambda content: content["scores"][0].pop("n"),
    "report.scores[0].n": lambda content: content["scores"][0].update(n=0),
    "report.scores[1].n": lambda content: content["scores"][1].update(n="200"),
    "report.scores[2].n": lambda content: content["scores"][2].update(n=True),
    "report.scores[0].correct": lambda content: content["scores"][0].update(correct=-5),
    "report.scores[0].seconds": lambda content: content["scores"][0].update(seconds=10**400),
    "report.scores[0].budget": lambda content: content["scores"][0].update(budget=float("nan")),
    "report.scores": lambda content: content.update(scores={}),
    "report.curve[0].correct": lambda content: content["curve"][0].update(correct=1.5),
    "report.data": lambda content: content.update(data=[]),
    "report.data.fingerprint": lambda content: content["data"].update(fingerprint="abc"),
    "report.data.image_shape": lambda content: content["data"].update(image_shape=[3, 8]),
    "report.data.image_shape[0]": lambda content: content["data"].update(image_shape=["a", "b", "c"]),
    "report.data.image_shape[1]": lambda content: content["data"].update(image_shape=[3, 10**6, 10**6]),
    "report.data.class_names": lambda content: content["data"].update(class_names=["one"]),
    "report.seed": lambda content: content.update(seed=2.5),
    "report.adaptation.share": lambda content: content["adaptation"].update(share="all"),
    "report.history[0].loss": lambda content: content["history"][0].update(loss="low"),
    "a field of report.gallery.images[0]": lambda content: content["gallery"]["images"][0].update(path="/etc/passwd"),
    "report.onnx.variants": lambda content: content["onnx"].update(variants=3),
    "report.versions.torch": lambda content: content["versions"].update(torch=["2"]),
}


@pytest.mark.parametrize("where", DAMAGE)
def test_damage_is_named_where_it_is(
    where: str, full: dict[str, Any], validator: jsonschema.Draft202012Validator
) -> None:
    DAMAGE[where](full)
    if where not in ("report.scores[0].budget", "report.scores[0].seconds"):  # NaN, and more than a float can hold
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(full)
    with pytest.raises(OutputError) as refused:
        RobustnessReport.from_dict(full)
    assert where in refused.value.problem.replace("The report has schema", "schema")


def test_foreign_names_are_not_repeated_at_their_full_length(full: dict[str, Any]) -> None:
    full["gallery"]["predictions"]["x" * 100_000] = None
    with pytest.raises(OutputError, match=r"^report\.gallery\.predictions\.x+ is None") as refused:
        RobustnessReport.from_dict(full)
    assert len(str(refused.value)) < 300
    with pytest.raises(ConfigError, match=r"^There is no setting 'x+") as unknown:
        HardenConfig.from_dict({"x" * 100_000: 1})
    assert len(str(unknown.value)) < 1000


@pytest.fixture
def full(report: RobustnessReport) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(report.to_dict()))
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["scores"][0].update(correct=24 * 10), "240 right"),
        (lambda content: content["scores"][0].update(attack="pgd"), "column clean names the attack"),
        (lambda content: content["classes"]["hardened"]["n"].pop(), "at most all of every class|counts 2 classes"),
        (lambda content: content["gallery"]["images"].pop(), "do not belong to"),
        (lambda content: content["gallery"]["images"][0].update(label=7), "names the class 7"),
    ],
)
def test_sections_that_contradict_one_another_are_refused(change: Any, message: str, full: dict[str, Any]) -> None:
    change(full)
    with pytest.raises(OutputError) as refused:
        RobustnessReport.from_dict(full)
    assert re.search(message, f"{refused.value}")


def test_no_section_takes_the_place_of_another(report: RobustnessReport) -> None:
    with pytest.raises(OutputError, match=r"no section 'sections'"):
        report.complete({"sections": {}})
    with pytest.raises(OutputError, match=r"scores\[0\] is 'nonsense'"):
        report.complete({"scores": ["nonsense"]})


def test_reports_of_a_newer_version_with_more_sections_are_read(full: dict[str, Any]) -> None:
    full["audits"] = {"membership": 0.5}
    full["data"]["license"] = "MIT"
    assert RobustnessReport.from_dict(full).data.name == "colors"


def test_rows_of_older_versions_say_what_a_patch_is() -> None:
    older = Path(__file__).parents[1] / "rows-of-the-first-version.jsonl"
    rows = [score for row in read_rows(older) for score in row.scores]
    assert {score.is_patch for score in rows if score.attack == "advencoder-pat"} == {True}
    assert {score.is_patch for score in rows if score.attack != "advencoder-pat"} == {False}
    assert {score.crafting_data for score in rows} == {"", "train", "test", "replayed"}


def test_the_number_in_the_schema_is_the_one_that_reports_carry(validator: jsonschema.Draft202012Validator) -> None:
    assert validator.schema["properties"]["schema"]["const"] == SCHEMA
    assert validator.schema["$id"].endswith(f":{SCHEMA}")


def test_every_field_is_described(validator: jsonschema.Draft202012Validator) -> None:
    bare = [path for path, node in _top(validator.schema) if not node.get("description")]
    assert not bare


def _top(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in (schema, *schema["$defs"].values()):
        yield from part["properties"].items()


def test_reading_and_writing_keeps_everything(bundle: Path) -> None:
    content = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(RobustnessReport.load(bundle).to_dict())) == content
