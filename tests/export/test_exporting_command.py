"""``genaf export`` for other servers, and ``genaf verify`` of what lies on the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from export_helpers import TinyBackbone, colors, tiny_result
from hub_server import LoopbackHub
from PIL import Image
from test_hub import PUSH, client, hub  # noqa: F401  # hub is a fixture

from genaf_sdk import harden
from genaf_sdk.cli import CHECK_FAILED, DONE, USAGE_ERROR, main
from genaf_sdk.encoders import load_encoder
from genaf_sdk.export.bundle import write_bundle
from genaf_sdk.export.integrity import seal
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.export.triton import check_triton_model
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.models.heads import build_head


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = tiny_result()
    return write_bundle(result.model, tmp_path_factory.mktemp("bundle"), result)


def test_a_triton_repository_and_a_manifest_are_written(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, manifest = tmp_path / "repository", tmp_path / "service.yaml"
    triton = ["--triton", str(repository), "--name", "colors", "--max-batch", "8", "--max-delay", "0.002"]
    kserve = ["--kserve", str(manifest), "--storage-uri", "s3://models/repository", "--memory", "2Gi"]
    assert main(["export", str(bundle), *triton, *kserve, "--json"]) == DONE
    written = json.loads(capsys.readouterr().out)
    assert written == {"kserve": str(manifest), "triton": str(repository / "colors")}
    check_triton_model(repository / "colors")
    assert "max_queue_delay_microseconds: 2000" in (repository / "colors" / "config.pbtxt").read_text()
    service = yaml.safe_load(manifest.read_text())
    assert service["kind"] == "InferenceService"
    assert "s3://models/repository" in manifest.read_text()
    assert not Path("model.onnx").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-batch", "8"], "Without --triton there is nothing to do for --max-batch"),
        (["--storage-uri", "s3://models"], "Without --kserve there is nothing to do for --storage-uri"),
        (["--triton", "repository", "--max-delay", "-1"], "max_delay is -1"),
        (["--triton", "repository", "--name", "../up"], "'../up'"),
        (["--triton", "repository", "--precision", "bf16"], "model.bf16.onnx"),
        (["--triton", "repository", "--tensorrt", "--device", "cpu"], "TensorRT"),
        (["--kserve", "service.yaml"], "storage"),
        (["--kserve", "service.yaml", "--image", "x/y:1", "--memory", "4 GB"], "memory is '4 GB'"),
        (["--kserve", "service.yaml", "--name", "A_b", "--image", "x/y:1"], "--name"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    options: list[str],
    message: str,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(bundle), *options]) == USAGE_ERROR
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_the_color_of_masks_is_that_of_the_models_own_file(tmp_path: Path) -> None:
    encoder = load_encoder("bundled:simclr-cifar10")
    head = build_head("linear", encoder.feature_dim((16, 16)), 3)
    model = HardenedModel(encoder, head, class_names=("red", "green", "blue"), image_size=(16, 16))
    folder, color = model.save_pretrained(tmp_path / "model"), (0.25, 0.5, 0.125)
    assert main(["export", str(folder), str(tmp_path / "without.onnx")]) == DONE
    assert OnnxModel(tmp_path / "without.onnx").mean_color == ()
    export_onnx(model, folder / "model.onnx", color=color)
    assert main(["export", str(folder), str(tmp_path / "again.onnx")]) == DONE
    assert OnnxModel(tmp_path / "again.onnx").mean_color == color


def pictures(folder: Path) -> Path:
    """Write the colors as PNG files, train|val|test/CLASS/NUMBER.png, and return the folder."""
    for seed, (split, count) in enumerate((("train", 48), ("val", 12), ("test", 30))):
        pixels, labels = colors(count, seed).sample()
        for index, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            path = folder / split / ("red", "green", "blue")[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy()).save(path)
    return folder


def test_anyone_can_verify_what_lies_on_the_hub(
    hub: LoopbackHub,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = pictures(tmp_path / "pictures")
    result = harden(TinyBackbone(), str(folder), tiny_result().config, progress=False)
    bundle = write_bundle(result.model, tmp_path / "bundle", result)
    assert client(hub, tmp_path, PUSH, bundle).returncode == 0

    verify = "import sys; from genaf_sdk.cli import main; "
    verify += f"sys.exit(main(['verify', 'hf-hub:' + REPO, '--data', {str(folder)!r}]))"
    honest = client(hub, tmp_path, verify)
    assert honest.returncode == DONE, honest.stderr
    assert "NO" not in honest.stdout.split()

    flattering = json.loads((bundle / "report.json").read_text())
    for score in flattering["scores"]:
        score["correct"] = score["n"] if score["column"] == "transfer" else 0
    (bundle / "report.json").write_text(json.dumps(flattering))
    seal(bundle)
    assert client(hub, tmp_path, PUSH, bundle).returncode == 0
    assert client(hub, tmp_path, verify).returncode == CHECK_FAILED
    elsewhere = client(hub, tmp_path, verify.replace("REPO", "'tester/none'"))
    assert elsewhere.returncode == USAGE_ERROR
    assert "tester/none" in elsewhere.stderr
