"""A Space: what is written, what its page computes, and the page itself in a browser, where Gradio and one are."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devtools import Page, axe_core, free_port, visit
from export_helpers import tiny_data, tiny_result
from hub_server import TOKEN, LoopbackHub
from PIL import Image

from genaf_sdk.cli import main
from genaf_sdk.data.sampling import Sample
from genaf_sdk.evaluation.certificates import certify
from genaf_sdk.evaluation.settings import CertificateConfig
from genaf_sdk.export.bundle import write_bundle
from genaf_sdk.export.integrity import seal
from genaf_sdk.export.serve import OnnxClassifier
from genaf_sdk.export.serve.space.certificate import read_certificate
from genaf_sdk.export.serve.space.perturbations import read_perturbations
from genaf_sdk.inputs.keys import Knowledge, PerturbationKey
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.inputs.threat import Patch
from genaf_sdk.models.checksums import check_whole
from genaf_sdk.result import HardenResult

HOSTILE = "<img src=x onerror=alert(1)>"
NAMES = ("red", "green", HOSTILE)
ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "build" / "space" / "bin" / "python"
"""Of an environment with the requirements of a Space and nothing else: `.ci/run` makes it."""


@pytest.fixture(scope="module")
def result() -> HardenResult:
    made = tiny_result()
    made.model.class_names = NAMES
    values, mask = torch.rand(3, 16, 16), torch.zeros(1, 16, 16)
    mask[:, 2:5, 3:6] = 1
    key = PerturbationKey(Knowledge.ADAPTIVE, "patch", model="hardened")
    assert made.report is not None
    made.report.perturbations[str(key)] = Perturbation(values, Patch(0.05), mask, key)
    config = CertificateConfig(patch=0.02, masks=2, samples=20)
    made.report.certificate = certify(made.model, Sample.draw(made.data.test, 20, seed=0), config, (0.5, 0.4, 0.3))
    return made


@pytest.fixture(scope="module")
def bundle(result: HardenResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(result.model, tmp_path_factory.mktemp("space") / "bundle", result)


@pytest.fixture(scope="module")
def space(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "a space"
    assert main(["push", str(bundle), "ORG/NAME", "--space", "--dry-run", str(folder)]) == 0
    return folder


def test_a_space_is_tried_in_an_environment_of_its_own(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a space"
    assert main(["push", str(bundle), "ORG/NAME", "--space", "--dry-run", str(folder)]) == 0
    make, install, start = capsys.readouterr().out.splitlines()[-1].split(" && ")
    (environment,) = shlex.split(make.removeprefix("python -m venv "))
    assert not Path(environment).is_relative_to(folder), "what goes up holds no environment"
    (pip, *_, requirements), (python, app) = shlex.split(install), shlex.split(start)
    assert {Path(pip).parents[1], Path(python).parents[1]} == {Path(environment)}
    assert Path(requirements).is_file()
    assert Path(app).is_file()


def test_a_saved_perturbation_does_the_same_without_torch(result: HardenResult, bundle: Path) -> None:
    images, _ = result.data.test.sample(8)
    found = read_perturbations(bundle, (3, 16, 16))
    assert result.report is not None
    saved = [result.report.perturbations[name] for name in sorted(result.report.perturbations)]
    assert {each.mask is None for each in saved} == {True, False}
    for own, theirs in zip(saved, found, strict=True):
        np.testing.assert_allclose(theirs.apply(images.numpy()), own.apply(images).numpy(), atol=1e-7)
        assert (own.threat.text() if own.mask is None else "5.0% of the area") in theirs.title
        assert own.attack in theirs.title


def test_the_page_tries_the_masks_of_the_report(result: HardenResult, bundle: Path) -> None:
    assert result.report is not None
    section, own = result.report.certificate, read_certificate(bundle)
    assert section is not None
    assert own is not None
    assert (own.certified, own.n) == (section.certified, section.n)
    classifier = OnnxClassifier(bundle, certify=own.area, masks=own.masks_per_axis, fill=own.fill)
    assert classifier.defense is not None
    assert classifier.defense.masks.patch == own.patch == tuple(section.patch)
    assert len(classifier.defense.masks) == section.masks


def test_a_space_is_the_bundle_with_what_starts_it(
    bundle: Path, space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import RepoCard

    card = RepoCard.load(space / "README.md")
    assert (card.data.sdk, card.data.app_file) == ("gradio", "app.py")
    assert any(f"gradio>={card.data.sdk_version}" == line for line in (space / "requirements.txt").read_text().split())
    files = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {"app.py", "README.md", "requirements.txt"} == {name for name in files if not name.startswith("bundle/")}
    check_whole(space / "bundle")
    again = ["push", str(bundle), "ORG/NAME", "--space", "--dry-run", str(space)]
    assert main(again) == 2
    assert "is not empty" in capsys.readouterr().err


def test_the_pictures_of_the_test_set_stay_at_home(bundle: Path, space: Path) -> None:
    assert "gallery" in json.loads((bundle / "report.json").read_text())
    assert "gallery" not in json.loads((space / "bundle" / "report.json").read_text())


def test_a_bundle_of_an_older_version_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = Path(shutil.copytree(bundle, tmp_path / "older"))
    (older / "serve" / "requirements-space.txt").unlink()
    seal(older)
    assert main(["push", str(older), "ORG/NAME", "--space", "--dry-run", str(tmp_path / "space")]) == 2
    assert "write the bundle again" in capsys.readouterr().err
    assert not (tmp_path / "space").exists()


def test_a_space_is_pushed_in_one_commit(bundle: Path, tmp_path: Path) -> None:
    hub = LoopbackHub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "genaf_sdk", "push", str(bundle), "ORG/NAME", "--space"]
    options: dict[str, Any] = {"env": environment, "capture_output": True, "text": True, "timeout": 120, "check": False}
    try:
        done = subprocess.run(command, **options)
        (repository,) = hub.repositories.values()
        older = {"bundle/perturbations/older.safetensors": b"", "picture.png": b"of the publisher"}
        repository.files[repository.branches["main"]] |= older
        again = subprocess.run(command, **options)
    finally:
        hub.shutdown()
        hub.server_close()
    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    assert "to the Space ORG/NAME (private if it is new)" in done.stderr
    assert (repository.kind, repository.private, len(repository.commits)) == ("space", True, 2)
    files = repository.files[repository.branches["main"]]
    assert set(older) & set(files) == {"picture.png"}, "what an older bundle left goes, and nothing else"
    assert {"app.py", "requirements.txt", "README.md", "bundle/model.onnx", "bundle/checksums.json"} <= set(files)


@contextmanager
def running(space: Path, log: Path, port: int) -> Iterator[str]:
    """Start a Space as the Hub does, and yield its address."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    address = f"http://127.0.0.1:{port}/"
    with log.open("wb") as output:
        process = subprocess.Popen([PYTHON, "app.py"], cwd=space, env=environment, stdout=output, stderr=output)
        try:
            end = time.monotonic() + 90
            while True:
                try:
                    urllib.request.urlopen(address, timeout=5).read()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < end, log.read_text()
                    time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(20)


STATE = """({
  said: document.querySelector("#said textarea, #said input")?.value,
  proof: document.querySelector("#certificate textarea, #certificate input")?.value,
  before: document.querySelector("#before-label")?.innerText,
  after: document.querySelector("#after-label")?.innerText,
  images: [...document.querySelectorAll("#before-image img, #after-image img")].map((image) => image.naturalWidth),
  injected: document.querySelectorAll("#before-label img, #after-label img, #said img").length,
  ready: document.querySelector("#picture input[type=file]") !== null,
})"""


@pytest.mark.skipif(not PYTHON.exists(), reason="needs build/space: pip install -r export/serve/requirements-space.txt")
def test_the_page_shows_a_picture_before_and_after(space: Path, result: HardenResult, tmp_path: Path) -> None:
    axe = axe_core(tmp_path)
    images, labels = tiny_data().test.sample(60)
    index = int((labels == 2).nonzero()[0])
    pixels = (images[index] * 255).round().byte()
    picture, junk, bomb = tmp_path / "picture.png", tmp_path / "junk.png", tmp_path / "bomb.png"
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(picture)
    junk.write_bytes(b"no picture")
    Image.new("1", (30_000, 1_000)).save(bomb)
    with torch.no_grad():
        answer = NAMES[int(result.model(pixels[None].float() / 255).argmax())]
    log = tmp_path / "log"

    async def act(page: Page) -> None:
        await page.until(STATE, lambda state: state["ready"], 60)
        await page.choose("#picture input[type=file]", picture)
        state = await page.until(STATE, lambda state: state["images"] == [320, 320], 60)
        assert answer in state["said"]
        assert answer in state["before"]
        assert state["injected"] == 0, "a class's name stays text"
        await page.evaluate("document.querySelector('#certify').click()")
        state = await page.until(STATE, lambda state: "ertified" in state["proof"], 60)
        assert await page.axe(axe) == []
        for path, said in ((junk, "cannot be decoded"), (bomb, "at most 25,000,000 pixels")):
            await page.evaluate("document.querySelector('#picture button[aria-label=Clear]').click()")
            await page.until(STATE, lambda state: state["ready"] and "Choose" in state["said"])
            await page.choose("#picture input[type=file]", path)
            await page.until(STATE, lambda state, said=said: said in state["said"])

    with running(space, log, free_port()) as address:
        visit(tmp_path, address, act, 240)
    assert "Traceback" not in log.read_text()
