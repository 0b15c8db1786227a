"""Methods of third parties: by entry point, as the example says, from training to the report."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from torch import nn

from genaf_sdk import compare, harden, registry
from genaf_sdk.cli import main
from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.errors import ConfigError
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.methods import METHODS

EXAMPLE = Path(__file__).parents[1] / "examples" / "custom_method.py"
QUICK = EvaluationConfig(
    attacks=("uapgd:steps=1,batch_size=8",), surrogate_samples=8, test_samples=8, curve=(), checks=False
)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy as an installed package has it: nobody imports it, an entry point names it."""
    package = tmp_path / "site" / "toy_package"
    package.mkdir(parents=True)
    shutil.copy(EXAMPLE, package / "toy.py")
    monkeypatch.syspath_prepend(package.parent)
    METHODS.items()
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))
    entry = EntryPoint("toy", "toy_package.toy:Toy", METHODS.group)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == METHODS.group else [])
    yield
    for module in ("toy_package.toy", "toy_package"):
        sys.modules.pop(module, None)


def test_nobody_knows_it_without_the_entry_point() -> None:
    with pytest.raises(ConfigError, match="toy"):
        HardenConfig.preset("toy")


@pytest.mark.usefixtures("toy")
def test_it_is_compared_with_the_others(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    methods = {
        name: HardenConfig.preset(name).with_(method={"schedule": {"epochs": 1, "batch_size": 32}})
        for name in ("toy", "fine-tuning")
    }
    comparison = compare(tiny_encoder, striped, methods, evaluation=QUICK, progress=False)
    assert comparison.methods == ["toy", "fine-tuning"]
    toy, plain = comparison.rows
    assert toy.config["method"]["name"] == "toy"
    assert toy.figures.keys() == plain.figures.keys()
    assert HardenConfig.from_dict(json.loads(json.dumps(toy.config))).method == methods["toy"].method


@pytest.mark.usefixtures("toy")
def test_the_report_says_its_name(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path
) -> None:
    config = quick_config.with_(method={"schedule": {"epochs": 1}}, baseline={"epochs": 1}, evaluation=QUICK)
    result = harden(tiny_encoder, striped, config, method="toy", progress=False)
    assert result.report is not None
    result.report.save(tmp_path / "run")
    assert {record["stage"] for record in result.history} == {"undefended", "stage 1"}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["config"]["method"] == {**result.config.method.to_dict(), "name": "toy"}
    assert report["config"]["method"]["schedule"]["epochs"] == 1
    assert "toy" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("toy")
def test_the_commands_list_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--list"]) == 0
    assert "Random noise on every image." in capsys.readouterr().out


@pytest.mark.usefixtures("toy")
def test_its_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"epsilon is 2"):
        HardenConfig.preset("toy").with_(method={"epsilon": 2})
    with pytest.raises(ConfigError, match="epsilonn"):
        HardenConfig.from_dict({"method": {"name": "toy", "epsilonn": 0.1}})
