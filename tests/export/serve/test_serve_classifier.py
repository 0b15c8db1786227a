"""OnnxClassifier, image decoding, and the choice of a provider."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from tiny import NAMES, SIZE, images, make_bundle, reference, seal, tiny_graph

from genaf_sdk.export.serve import OnnxClassifier, load_bundle
from genaf_sdk.export.serve import providers as providers_module
from genaf_sdk.export.serve.bench import bench, main, table
from genaf_sdk.export.serve.cadence import fastest_batch
from genaf_sdk.export.serve.errors import BundleError, InputError, ProviderError, TooLargeError
from genaf_sdk.export.serve.images import decode


def test_labels_scores_and_logits_agree_with_numpy(bundle: Path) -> None:
    pixels = images(7)
    prediction = load_bundle(bundle, provider="cpu", max_batch=3).predict(pixels)
    expected = reference(pixels)
    np.testing.assert_allclose(prediction.logits, expected, atol=1e-5)
    powers = np.exp(expected)
    np.testing.assert_allclose(prediction.scores, (powers / powers.sum(1, keepdims=True)).max(1), rtol=1e-5)
    assert prediction.labels == tuple(NAMES[index] for index in expected.argmax(1))


@pytest.mark.parametrize("uint8_input", [False, True])
def test_bytes_and_floats_give_the_same(tmp_path: Path, uint8_input: bool) -> None:
    classifier = load_bundle(make_bundle(tmp_path / "tiny", uint8_input=uint8_input), provider="cpu")
    raw = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    floats = (raw.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    np.testing.assert_allclose(classifier.predict(raw).logits, reference(floats), atol=1e-5)
    np.testing.assert_allclose(classifier.predict(floats).logits, reference(floats), atol=1e-5)


def test_buckets_pad_and_cut(bundle: Path) -> None:
    classifier = OnnxClassifier(bundle, provider="cpu", max_batch=8, buckets=(2, 4, 64))
    assert classifier.buckets == (2, 4, 8)
    seen: list[int] = []
    session = classifier.session

    class Spy:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(len(feed["pixels"]))
            result: list[np.ndarray] = session.run(names, feed)
            return result

    classifier.session = Spy()  # type: ignore[assignment]
    pixels = images(3)
    np.testing.assert_allclose(classifier.run(pixels), reference(pixels), atol=1e-5)
    classifier.run(images(8))
    assert seen == [4, 8]


def test_a_batch_goes_through_the_graph_in_parts_that_suit_the_processor(bundle: Path) -> None:
    classifier = OnnxClassifier(bundle, provider="cpu", max_batch=8)
    pixels = images(7)
    whole = classifier.run(pixels)
    classifier.at_once = 3
    np.testing.assert_allclose(classifier.run(pixels), whole, atol=1e-6)
    classifier.warm_up()
    assert classifier.at_once in (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("milliseconds", "largest", "found", "tried"),
    [
        ({1: 7.1, 2: 7.1, 4: 7.1, 8: 8.1, 16: 8.6, 32: 10.7}, 32, 4, 16),  # outgrows the caches
        ({1: 5.8, 2: 5.0, 4: 4.7, 8: 4.4, 16: 4.2, 32: 4.3}, 32, 32, 32),  # the larger the better
        ({1: 3.0, 2: 2.0, 4: 2.0, 5: 2.0}, 5, 5, 5),
        ({1: 900.0}, 32, 32, 1),  # too slow to find out
        ({1: 1.0}, 1, 1, 1),
    ],
)
def test_the_largest_batch_that_is_about_the_fastest_is_found(
    milliseconds: dict[int, float], largest: int, found: int, tried: int
) -> None:
    sizes: list[int] = []

    def seconds_of(size: int) -> float:
        sizes.append(size)
        return milliseconds[size] * size / 1e3 * (1.5 if sizes.count(size) == 1 else 1.0)

    assert fastest_batch(seconds_of, largest) == found
    assert max(sizes) == tried


@pytest.mark.parametrize("uint8_input", [False, True])
def test_bound_buffers_give_what_a_plain_run_gives(tmp_path: Path, uint8_input: bool) -> None:
    """The path of the GPU providers, on the CPU: only the device of the buffers differs."""
    made = make_bundle(tmp_path / "tiny", uint8_input=uint8_input)
    bound = load_bundle(made, provider="cpu", max_batch=4, buckets=(1, 2, 4), binding=True)
    batches = [images(count, seed=count) for count in (1, 2, 3, 4, 7)]
    answers = [bound.predict(batch).logits for batch in batches]
    for batch, answer in zip(batches, answers, strict=True):  # later batches have not overwritten earlier answers
        np.testing.assert_allclose(answer, reference(batch), atol=1e-2 if uint8_input else 1e-5)
    assert not OnnxClassifier(made, provider="cpu").binding


def test_bound_buffers_are_not_mixed_up_by_threads(bundle: Path) -> None:
    bound = load_bundle(bundle, provider="cpu", max_batch=4, binding=True)
    batches = [images(1 + seed % 4, seed=seed) for seed in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for batch, answer in zip(batches, pool.map(bound.run, batches), strict=True):
            np.testing.assert_allclose(answer, reference(batch), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([1, 2], "a list"),
        (np.zeros((1, 3, SIZE, SIZE)), "float64"),
        (np.zeros((3, SIZE, SIZE), np.float32), "shape"),
        (np.zeros((1, 1, SIZE, SIZE), np.float32), "shape"),
        (np.zeros((1, 3, SIZE, SIZE), np.uint8), "shape"),
        (np.zeros((1, 3, 224, 224), np.float32), "shape"),
        (np.zeros((0, 3, SIZE, SIZE), np.float32), "shape"),
        (np.full((1, 3, SIZE, SIZE), np.nan, np.float32), "NaN"),
        (np.full((1, 3, SIZE, SIZE), np.inf, np.float32), "inf"),
        (np.full((1, 3, SIZE, SIZE), 255, np.float32), "divide bytes by 255"),
        (np.full((1, 3, SIZE, SIZE), -1, np.float32), "from -1"),
    ],
)
def test_wrong_images_are_named(bundle: Path, wrong: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_bundle(bundle, provider="cpu").predict(wrong)  # type: ignore[arg-type]


def test_one_bad_pixel_is_found(bundle: Path) -> None:
    pixels = images(5)
    pixels[4, 2, -1, -1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        load_bundle(bundle, provider="cpu").predict(pixels)


def test_graphs_that_are_no_classifier_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny_graph(batch=1), path)
    with pytest.raises(BundleError, match=r"no image classifier.*any batch size"):
        OnnxClassifier(path, provider="cpu")
    model = tiny_graph()
    onnx.helper.set_model_props(model, {"class_names": json.dumps(NAMES[:2])})
    onnx.save(model, path)
    with pytest.raises(BundleError, match="4 logits, but 2 classes"):
        OnnxClassifier(path, provider="cpu")
    model = tiny_graph()
    onnx.helper.set_model_props(model, {"image_size": "[8, 8]"})
    onnx.save(model, path)
    with pytest.raises(BundleError, match="32 x 32 pixels, its metadata"):
        OnnxClassifier(path, provider="cpu")


def test_weights_that_do_not_fit_are_an_error_of_ours(tmp_path: Path) -> None:
    model = tiny_graph()
    model.graph.node[-1].op_type = "Softmax"  # of three inputs
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ProviderError, match="cannot run"):
        OnnxClassifier(tmp_path / "model.onnx", provider="cpu")


# Providers: this test suite runs where there is no GPU, which is when honesty matters.


def no_gpu() -> bool:
    return not Path("/dev/nvidia0").exists()


def test_auto_says_what_really_loaded(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    classifier = OnnxClassifier(bundle)
    assert providers_module.PROVIDERS[classifier.provider] == classifier.session.get_providers()[0]
    if no_gpu():
        assert classifier.provider == "cpu"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.skipif(not no_gpu(), reason="there is a GPU")
def test_an_explicit_gpu_is_never_silently_the_cpu(bundle: Path, provider: str) -> None:
    with pytest.raises(ProviderError, match=f"{provider}.*pip install"):
        OnnxClassifier(bundle, provider=provider)


def test_a_provider_that_loads_as_another_is_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime answers a CUDA request with a CPU session and no exception: the trap this guards against."""
    real = onnxruntime.InferenceSession

    def cpu_session(path: str, options: object, **_: object) -> onnxruntime.InferenceSession:
        return real(path, options, providers=["CPUExecutionProvider"])

    full = list(providers_module.PROVIDERS.values())
    monkeypatch.setattr(providers_module.onnxruntime, "get_available_providers", lambda: full)
    monkeypatch.setattr(providers_module.onnxruntime, "InferenceSession", cpu_session)
    monkeypatch.setattr(providers_module, "_preload", lambda: "libcudart is missing")
    with pytest.raises(ProviderError, match=r"'cuda' was asked for, but what loaded is 'cpu'. libcudart is missing"):
        OnnxClassifier(bundle, provider="cuda")
    assert OnnxClassifier(bundle, provider="auto").provider == "cpu"


def test_without_a_place_for_engines_auto_goes_on_and_tensorrt_says_why(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user has no home: the package for GPUs lists TensorRT, whether it is there or not."""
    listed = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(providers_module.onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(providers_module, "_preload", lambda: "")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert OnnxClassifier(bundle, provider="auto").provider == "cpu"
    with pytest.raises(ProviderError, match=r"cannot be made.*XDG_CACHE_HOME"):
        OnnxClassifier(bundle, provider="tensorrt")


def test_an_unknown_or_absent_provider_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProviderError, match="no provider 'gpu'"):
        OnnxClassifier(bundle, provider="gpu")
    monkeypatch.setattr(providers_module.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match=r"has no provider 'cuda'.*onnxruntime-gpu\[cuda,cudnn\]"):
        OnnxClassifier(bundle, provider="cuda")


def test_two_onnxruntimes_are_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers_module, "version", lambda name: "1.0")
    with pytest.raises(ProviderError, match=r"both installed.*pip uninstall"):
        OnnxClassifier(bundle)

    def only_gpu(name: str) -> str:
        if name == "onnxruntime":
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(providers_module, "version", only_gpu)
    assert OnnxClassifier(bundle, provider="cpu").provider == "cpu"


def test_tensorrt_gets_the_shapes_of_the_graph() -> None:
    options = providers_module.provider_options("tensorrt", (16, 3, 8, 9))
    assert options["trt_profile_min_shapes"] == "pixels:1x3x8x9"
    assert options["trt_profile_max_shapes"] == "pixels:16x3x8x9"
    assert options["trt_fp16_enable"] is False


def test_cuda_computes_in_the_precision_of_the_file() -> None:
    assert providers_module.provider_options("cuda")["use_tf32"] == "0"


# Images


def encoded(kind: str, size: tuple[int, int] = (48, 40), **options: object) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_become_pixels(kind: str, channels: int) -> None:
    pixels = decode(encoded(kind), (channels, 16, 24))
    assert (pixels.shape, pixels.dtype) == ((1, 16, 24, channels), np.uint8)
    assert pixels.std() > 1


def test_orientation_is_followed() -> None:
    picture = Image.new("RGB", (40, 40), "black")
    picture.paste("white", (0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    pixels = decode(file.getvalue(), (1, 4, 4))
    assert pixels[0, 0].max() < 50 < 200 < pixels[0, -1].min()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "EPS"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="JPEG, PNG, WEBP"):
        decode(encoded(kind), (3, 16, 16))


def test_broken_images_are_refused() -> None:
    whole = encoded("PNG")
    for data in (b"", b"no image", whole[:60], whole[: len(whole) // 2]):
        with pytest.raises(InputError, match="cannot be decoded"):
            decode(data, (3, 16, 16))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_16_bits_a_channel_is_refused(channels: int) -> None:
    """Pillow would clip it: a picture of white that gets a label and a score."""
    file = io.BytesIO()
    Image.fromarray(np.linspace(0, 2**16 - 1, 1600, dtype=np.uint16).reshape(40, 40)).save(file, "PNG")
    with pytest.raises(InputError, match=r"more than 8 bits a channel \(mode I;16\)"):
        decode(file.getvalue(), (channels, 16, 16))


def test_metadata_that_pillow_chokes_on_is_the_clients_fault() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    whole = encoded("JPEG", exif=exif.tobytes())
    damaged = whole.replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02")  # the maker's text where a number belongs
    assert damaged != whole
    with pytest.raises(InputError, match="cannot be decoded"):
        decode(damaged, (3, 16, 16))


def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    assert len(file.getvalue()) < 20_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(TooLargeError, match="9000 x 9000"):
        decode(file.getvalue(), (3, 16, 16))


# Benchmark


def test_bench_measures_every_batch_size(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = list(bench(bundle, batches=(1, 4), providers=("cpu",), seconds=0.05))
    assert [(entry.batch, entry.provider, entry.precision) for entry in found] == [
        (1, "cpu", "fp32"),
        (4, "cpu", "fp32"),
    ]
    for entry in found:
        assert 0 < entry.p50 <= entry.p90 <= entry.p99
        assert entry.runs > 1
        assert entry.images_per_second > entry.batch
    assert len(table(found).splitlines()) == 3
    assert main([str(bundle), "--batches", "1", "--seconds", "0.05", "--providers", "cpu"]) == 0
    assert "images_per_second" in capsys.readouterr().out
    assert main([str(bundle), "--batches", "1", "--seconds", "0.05", "--providers", "cpu", "--json"]) == 0
    assert {record["batch"] for record in json.loads(capsys.readouterr().out)} == {1}


def test_bench_says_what_cannot_be_measured(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--precisions", "int8", "--providers", "cpu"]) == 2
    assert "model.int8.onnx" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(bundle), "--seconds", "-1"])
    assert "--seconds: -1.0 is no length of time" in capsys.readouterr().err
    seal(bundle)
    assert main([str(bundle), "--batches", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
