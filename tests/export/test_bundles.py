"""Bundles are written whole or not at all, into a folder of their own or over an older one."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from export_helpers import Made

from genaf_sdk import HardenedModel
from genaf_sdk.errors import ExportError, OutputError
from genaf_sdk.export import bundle as bundle_module
from genaf_sdk.export import layout, staging
from genaf_sdk.export.bundle import save_model, save_report, write_bundle
from genaf_sdk.export.integrity import publishable, seal
from genaf_sdk.export.serve import bundle as serve_bundle
from genaf_sdk.export.serve import files as serve_files
from genaf_sdk.export.serve import signature as serve_signature
from genaf_sdk.export.staging import replacing_bundle
from genaf_sdk.models.checksums import check_whole, listed
from genaf_sdk.report.robustness import RobustnessReport


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != staging.TURN
    }


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that take no time: only files and their order matter here."""

    def write(model: HardenedModel, folder: Path, result: object) -> None:
        (folder / "model.onnx").write_bytes(b"graph")

    monkeypatch.setattr(bundle_module, "_write_graphs", write)


def test_the_server_spells_file_names_the_same() -> None:
    for module, name in (
        (serve_bundle, "MODEL_FILE"),
        (serve_bundle, "LABELS_FILE"),
        (serve_bundle, "CONFIG_FILE"),
        (serve_files, "CHECKSUMS_FILE"),
        (serve_signature, "SIGNATURE_FILE"),
        (serve_signature, "LEFTOVERS"),
    ):
        assert getattr(module, name) == getattr(layout, name), name


@pytest.mark.usefixtures("quick")
def test_a_write_that_fails_leaves_the_older_bundle_whole(
    made: Made, forged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(forged)

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_module, "_copy_server", full)
    with pytest.raises(OutputError, match="No space left"):
        write_bundle(made.model, forged)
    assert contents(forged) == before
    check_whole(forged)


@pytest.mark.usefixtures("quick")
def test_a_new_bundle_lists_only_what_was_written_with_it(made: Made, forged: Path) -> None:
    (forged / "model.int8.onnx").write_bytes(b"an older variant")
    (forged / "notes.txt").write_text("mine")
    write_bundle(made.model, forged)
    assert set(listed(forged)) == set(contents(forged)) - {"checksums.json", "notes.txt"}
    for name in ("report.json", "report.html", "perturbations", "model.fp16.onnx", "model.int8.onnx", ".eval_results"):
        assert not (forged / name).exists(), name
    assert (forged / "notes.txt").read_text() == "mine"
    with pytest.raises(ExportError, match=r"notes\.txt"):
        publishable(forged)


def test_an_exchange_that_is_killed_is_undone_by_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"

    def fill(partial: Path, names: list[str], text: str) -> None:
        for name in names:
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(text)
        seal(partial)

    with replacing_bundle(folder) as partial:
        fill(partial, ["model.onnx", "config.json", "serve/a.py", "README.md"], "old")
    before = contents(folder)
    move, left = staging._move, 0

    def dying(source: Path, target: Path) -> None:
        nonlocal left
        if left == 0:
            raise SystemExit("killed")
        left -= 1
        move(source, target)

    def write(names: list[str]) -> None:
        with replacing_bundle(folder) as partial:
            fill(partial, names, "new")

    for moves in range(10):
        left = moves
        with monkeypatch.context() as patch:
            patch.setattr(staging, "_move", dying)
            patch.setattr(staging, "_roll_back", lambda folder: None)  # as after kill -9: nobody tidies up
            patch.setattr(staging.shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(SystemExit):
                write(["model.onnx", "config.json", "serve/b.py", "README.md", "report.json"])
        assert contents(folder) != before
        with monkeypatch.context() as patch:  # and the write that was to undo it is killed, too
            patch.setattr(staging, "_move", dying)
            left = 1
            with pytest.raises(SystemExit), replacing_bundle(folder):
                raise SystemExit("killed")
        with replacing_bundle(folder) as partial:
            assert contents(folder) == before, f"after {moves} moves"
            fill(partial, ["model.onnx", "config.json", "serve/a.py", "README.md"], "old")
        assert contents(folder) == before
    with replacing_bundle(folder) as partial:
        fill(partial, ["model.onnx", "serve/b.py"], "new")
    assert set(contents(folder)) == {"model.onnx", "serve/b.py", "checksums.json"}


def test_the_list_goes_first_and_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is, all that it lists is there."""
    folder, moved, move = tmp_path / "bundle", list[str](), staging._move

    def noting(source: Path, target: Path) -> None:
        moved.append(source.name)
        move(source, target)

    monkeypatch.setattr(staging, "_move", noting)
    for _ in range(2):
        with replacing_bundle(folder) as partial:
            for name in ("a.txt", "z.txt"):
                (partial / name).write_text("")
            seal(partial)
    assert moved == ["a.txt", "z.txt", "checksums.json", "checksums.json", "a.txt", "z.txt", *moved[:3]]


def test_two_who_write_into_one_folder_take_turns(tmp_path: Path) -> None:
    folder, together = tmp_path / "bundle", threading.Barrier(4)

    def write(text: str) -> None:
        together.wait()
        with replacing_bundle(folder) as partial:
            for part in range(20):
                (partial / f"model.part{part}.onnx").write_text(text)
            seal(partial)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, str(number)) for number in range(4)]:
            done.result()
    assert len(check_whole(folder)) == 20
    assert len({path.read_text() for path in folder.glob("model.*")}) == 1
    assert {path.name for path in folder.glob(".*")} == set()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["README.md", "serve/app.py"])
def test_files_of_the_users_are_not_overwritten(name: str, made: Made, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(OutputError, match=name):
        write_bundle(made.model, tmp_path)
    assert contents(tmp_path) == {name: hashlib.sha256(b"mine").hexdigest()}
    save_model(made.model, tmp_path)
    assert path.read_text() == "mine", "the model alone needs no such name"
    assert HardenedModel.from_pretrained(tmp_path).class_names == made.model.class_names


def test_an_export_that_fails_costs_neither_model_nor_report(
    made: Made, forged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ExportError("The model cannot be exported to ONNX: a branch.")

    monkeypatch.setattr(bundle_module, "export_onnx", refuse)
    failures = list(made.report.failures)
    try:
        with pytest.raises(ExportError, match="a branch"):
            write_bundle(made.model, forged, made)
    finally:
        made.report.failures = failures
    assert not (forged / "model.onnx").exists(), "the older model's"
    assert not (forged / "checksums.json").exists()
    assert HardenedModel.from_pretrained(forged).class_names == made.model.class_names
    (failure,) = RobustnessReport.load(forged).failures
    assert (failure.part, failure.name) == ("export", "model.onnx")
    assert set(RobustnessReport.load(forged).perturbations) == set(made.report.perturbations)


def test_a_variant_that_fails_costs_its_file(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genaf_sdk.export import variants

    def refuse(*_: object) -> None:
        raise ExportError("half precision is too much.")

    (tmp_path / "model.onnx").write_bytes(b"graph")
    monkeypatch.setattr(variants, "_make", refuse)
    monkeypatch.setattr(variants, "OnnxModel", lambda path: path)
    monkeypatch.setattr(variants, "predictions", lambda model, sample, found: {"": sample.labels})
    failures: list[variants.Failure] = []
    found = variants.write_variants(
        made.model, tmp_path, made.data, {}, made.config.export, samples=None, seed=0, reference=[], failures=failures
    )
    assert found == []
    assert [failure.text for failure in failures] == ["export model.fp16.onnx failed: half precision is too much."]


def test_model_and_report_are_saved_as_soon_as_they_are_there(made: Made, tmp_path: Path) -> None:
    save_model(made.model, tmp_path)
    assert HardenedModel.from_pretrained(tmp_path).image_size == (16, 16)
    save_report(made.report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["schema"] == 1
    assert HardenedModel.from_pretrained(tmp_path).image_size == (16, 16)


def test_the_report_of_a_whole_bundle_is_not_replaced_alone(made: Made, forged: Path) -> None:
    before = contents(forged)
    with pytest.raises(OutputError, match="whole bundle"):
        save_report(made.report, forged)
    assert contents(forged) == before


def test_a_whole_bundle_is_not_given_other_weights(made: Made, forged: Path) -> None:
    before = contents(forged)
    with pytest.raises(OutputError, match="would lie in the bundle"):
        made.model.save_pretrained(forged)
    assert contents(forged) == before
