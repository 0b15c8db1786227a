from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from genaf_sdk import evaluate
from genaf_sdk.config import EvaluationConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.report import robustness as report_module
from genaf_sdk.report.robustness import RobustnessReport

SCHEMA_FILE = Path(report_module.__file__).with_name("schema.json")


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


def test_the_report_of_a_bare_evaluation_is_valid(
    striped: DataSplits, validator: jsonschema.Draft202012Validator
) -> None:
    config = EvaluationConfig(attacks=("pgd:steps=2",), sample_wise_samples=20, curve=(), checks=False)
    report = evaluate(lambda pixels: pixels.mean((2, 3)), striped, config=config)
    validator.validate(json.loads(json.dumps(report.to_dict())))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.update(schema=2),
        lambda content: content.pop("limits"),
        lambda content: content["scores"][0].update(accuracy=1.2),
        lambda content: content["scores"][0].update(column="grey-box"),
        lambda content: content["scores"][0].pop("n"),
        lambda content: content["data"].update(fingerprint="abc"),
        lambda content: content["adaptation"].update(share="all"),
        lambda content: content["history"][0].update(loss="low"),
        lambda content: content["gallery"]["images"][0].update(path="/etc/passwd"),
    ],
)
def test_a_damaged_report_is_not(damage: Any, bundle: Path, validator: jsonschema.Draft202012Validator) -> None:
    content = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    damage(content)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(content)


def test_the_number_in_the_schema_is_the_one_that_reports_carry(validator: jsonschema.Draft202012Validator) -> None:
    assert validator.schema["properties"]["schema"]["const"] == report_module.SCHEMA
    assert validator.schema["$id"].endswith(f":{report_module.SCHEMA}")


def test_every_field_is_described(validator: jsonschema.Draft202012Validator) -> None:
    bare = [path for path, node in _top(validator.schema) if "description" not in node]
    assert not bare


def _top(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from schema["properties"].items()
    yield from schema["$defs"]["score"]["properties"].items()


def test_reading_and_writing_keeps_everything(bundle: Path) -> None:
    content = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(RobustnessReport.load(bundle).to_dict())) == content
