"""Whatever is given from outside: success or an error of this package, within seconds, and no stray file.

``GENAF_FUZZ=2000 pytest tests/test_fuzz.py`` tries so many cases of each kind; by default it is a few dozen.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from genaf_sdk import HardenConfig, HardenedModel, RobustnessReport, load_encoder
from genaf_sdk.data import load_data
from genaf_sdk.engine.checkpoints import Checkpoint, Checkpoints, read_checkpoint
from genaf_sdk.errors import GenafError, OutputError
from genaf_sdk.export.hub import fetch_bundle
from genaf_sdk.export.serve.errors import ServeError
from genaf_sdk.export.serve.images import decode
from genaf_sdk.inputs.keys import PerturbationKey
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head

CASES = int(os.environ.get("GENAF_FUZZ", "40"))
few = settings(
    max_examples=CASES,
    deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=CASES <= 100,
)

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
json_values = st.recursive(
    leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3), max_leaves=6
)
PIECES = [
    *("..", "/", "\\", ":", "@", "%2e%2e", "~", "\x00", "\n", " ", "-", "hf-hub:", "hub:", "folder:", "torchvision:"),
    *("solo-learn:", "bundled:", "timm/", "ORG/NAME", "resnet18", "etc/passwd", "<script>", "${HOME}", "☃", ".pt"),
]
names = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=5).map("".join)


def clean(call: Callable[[], object]) -> None:
    """Run ``call``; an exception that is not of this package fails the test."""
    with contextlib.suppress(GenafError):
        call()


@pytest.fixture(autouse=True)
def offline_and_tidy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, and a working folder that must be empty afterwards."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.rglob("*")) == []


def paths_of(content: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(content, dict):
        return [prefix]
    return [prefix, *(path for name, value in content.items() for path in paths_of(value, (*prefix, name)))]


def replaced(content: dict[str, Any], path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(content)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return changed


CONFIG = HardenConfig().to_dict()


@few
@given(path=st.sampled_from(paths_of(CONFIG)), value=json_values)
def test_settings(path: tuple[str, ...], value: Any) -> None:
    clean(lambda: HardenConfig.from_dict(replaced(CONFIG, path, value)))


@few
@example(name="/etc/passwd")  # a file that is no pickle, which torch meets with an IndexError
@example(name="timm/\x00")
@given(name=names)
def test_encoder_ids(name: str) -> None:
    clean(lambda: load_encoder(name))


@few
@given(name=names)
def test_data_ids(name: str) -> None:
    clean(lambda: load_data(name))


@few
@given(name=names)
def test_bundle_ids(name: str) -> None:
    clean(lambda: fetch_bundle(name))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One valid file of every kind that is read from outside."""
    folder = tmp_path_factory.mktemp("files")
    Perturbation(torch.rand(3, 8, 8) / 10, Linf(0.1), key=PerturbationKey(attack="uap")).save(
        folder / "perturbation.safetensors"
    )
    Checkpoints(folder).save("stage", Checkpoint(1, {"x": torch.rand(5)}, {"note": [1, 2]}))
    encoder = PixelEncoder(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)))
    model = HardenedModel(encoder, build_head("mlp", 4, 2), class_names=("a", "b"), image_size=(4, 4))
    model.save_pretrained(folder / "model")
    return folder


def damaged(content: bytes, draw: st.DataObject) -> bytes:
    """Cut the bytes off, change some, or lie about the length that starts a safetensors file."""
    kind = draw.draw(st.sampled_from(("cut", "change", "length", "header")))
    place = draw.draw(st.integers(0, max(len(content) - 1, 0)))
    if kind == "cut":
        return content[:place]
    if kind == "length":
        return struct.pack("<Q", draw.draw(st.integers(0, 2**64 - 1))) + content[8:]
    if kind == "header":
        return content.replace(b"F32", b"F64", 1).replace(b"[", b"[9", 1)
    return content[:place] + draw.draw(st.binary(min_size=1, max_size=8)) + content[place + 1 :]


@few
@given(draw=st.data())
def test_perturbation_files(draw: st.DataObject, files: Path) -> None:
    content = damaged((files / "perturbation.safetensors").read_bytes(), draw)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.safetensors"
        path.write_bytes(content)
        clean(lambda: Perturbation.load(path))


@few
@given(draw=st.data())
def test_checkpoints(draw: st.DataObject, files: Path) -> None:
    source = files / "stage" / "00000001"
    name = draw.draw(st.sampled_from(("tensors.safetensors", "metadata.json")))
    content = damaged((source / name).read_bytes(), draw)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "00000001"
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).write_bytes(content if path.name == name else path.read_bytes())
        if name.endswith(".safetensors") and content != (source / name).read_bytes():
            with pytest.raises(OutputError, match="damaged"):
                read_checkpoint(folder)
        else:
            clean(lambda: read_checkpoint(folder))


def backbone() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 4))


@few
@given(draw=st.data())
def test_model_folders(draw: st.DataObject, files: Path) -> None:
    """Settings of a model replaced by anything, or either of its files damaged."""
    contents = {path.name: path.read_bytes() for path in (files / "model").iterdir()}
    name = draw.draw(st.sampled_from(("config.json", "model.safetensors", "a setting")))
    if name == "a setting":
        config = json.loads(contents["config.json"])
        path = draw.draw(st.sampled_from(paths_of(config)))
        contents["config.json"] = json.dumps(replaced(config, path, draw.draw(json_values))).encode()
    else:
        contents[name] = damaged(contents[name], draw)
    with tempfile.TemporaryDirectory() as root:
        for file, content in contents.items():
            (Path(root) / file).write_bytes(content)
        clean(lambda: HardenedModel.from_pretrained(root, backbone=backbone()))


def picture(kind: str) -> bytes:
    """Return a picture with the metadata that cameras write."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x011A] = "maker", 6, 72.0
    file = io.BytesIO()
    Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(file, kind, exif=exif.tobytes())
    return file.getvalue()


@few
@given(draw=st.data(), kind=st.sampled_from(("JPEG", "PNG", "WEBP")))
def test_pictures(draw: st.DataObject, kind: str) -> None:
    with contextlib.suppress(ServeError):
        assert decode(damaged(picture(kind), draw), (3, 8, 8)).shape == (1, 8, 8, 3)


@few
@given(content=json_values)
def test_reports(content: Any) -> None:
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "report.json").write_text(json.dumps(content))
        clean(lambda: RobustnessReport.load(root))
