"""The real client against a Hub on the loopback interface, in a process of its own, as it reads its settings once."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export_helpers import tiny_result
from hub_server import TOKEN, LoopbackHub

from genaf_sdk.cli import USAGE_ERROR
from genaf_sdk.export.bundle import write_bundle
from genaf_sdk.export.card import ModelFacts, card_metadata
from genaf_sdk.export.integrity import seal
from genaf_sdk.files import read_json, write_json
from genaf_sdk.result import HardenResult

REPO = "tester/hardened-digits"
PUSH = "from genaf_sdk.export.hub import push_bundle; print(push_bundle(FOLDER, REPO, **OPTIONS))"
FETCH = "from genaf_sdk.export.hub import fetch_bundle; print(fetch_bundle(REPO, **OPTIONS))"


def command(*words: str) -> str:
    return f"from genaf_sdk.cli import main; raise SystemExit(main({list(words)!r}))"


@pytest.fixture(scope="module")
def result() -> HardenResult:
    return tiny_result()


@pytest.fixture(scope="module")
def bundle(result: HardenResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(result.model, tmp_path_factory.mktemp("bundle"), result)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    server = LoopbackHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def client(
    hub: LoopbackHub, home: Path, code: str, folder: Path | str = "", token: str | None = TOKEN, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with the Hub's address and token in the environment; the token must not appear in any output."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **({"HF_TOKEN": token} if token else {}),
    }
    program = f"FOLDER, REPO, OPTIONS = {str(folder)!r}, {REPO!r}, {options!r}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_a_bundle_is_pushed_in_one_commit_and_comes_back_verified(
    hub: LoopbackHub, bundle: Path, tmp_path: Path
) -> None:
    pushed = client(hub, tmp_path, PUSH, bundle, pictures=True)
    assert pushed.returncode == 0, pushed.stderr
    assert f"{REPO}/commit/" in pushed.stdout
    repository = hub.repositories[REPO]
    assert repository.private, "unless told otherwise"
    assert len(repository.commits) == 1

    fetched = client(hub, tmp_path, FETCH)
    assert fetched.returncode == 0, fetched.stderr
    folder = Path(fetched.stdout.strip())
    for path in bundle.rglob("*"):
        if path.is_file():
            assert (folder / path.relative_to(bundle)).read_bytes() == path.read_bytes(), path

    load = "from genaf_sdk import HardenedModel; import torch, sys; sys.path.insert(0, FOLDER)\n"
    load += (
        "from export_helpers import TinyBackbone\nm = HardenedModel.from_pretrained(REPO, backbone=TinyBackbone())\n"
    )
    load += "print(m.class_names)"
    loaded = client(hub, tmp_path, load, Path(__file__).parent)
    assert loaded.returncode == 0, loaded.stderr
    assert "'red'" in loaded.stdout


def test_what_is_pushed_is_signed_and_verified_as_it_comes_back(hub: LoopbackHub, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="the extra `signing` is not installed")
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    plain = (forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    private.write_bytes(key.private_bytes(*plain))
    public.write_bytes(key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo))
    pushed = client(hub, tmp_path, command("push", str(bundle), REPO, "--sign", str(private)))
    assert pushed.returncode == 0, pushed.stderr
    assert "model.sig" in pushed.stderr, "it is shown with the others"
    assert not (bundle / "model.sig").exists()
    check = "from genaf_sdk.export.hub import fetch_bundle\nfrom genaf_sdk.export.signing import require_signature\n"
    check += f"print(require_signature(fetch_bundle(REPO), {str(public)!r}).found)"
    fetched = client(hub, tmp_path / "reader", check)
    assert fetched.returncode == 0, fetched.stderr
    assert "the key SHA256:" in fetched.stdout


@pytest.mark.parametrize(("kept", "message"), [("README.md", "holds no whole bundle"), ("", "format 99")])
def test_a_repository_that_holds_no_bundle_we_know_is_refused(
    kept: str, message: str, hub: LoopbackHub, bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    if not kept:
        write_json(folder / "config.json", read_json(folder / "config.json") | {"format": 99})
        seal(folder)
    assert client(hub, tmp_path / "author", PUSH, folder).returncode == 0
    files = hub.repositories[REPO].files[hub.repositories[REPO].branches["main"]]
    for name in set(files) - {kept} if kept else ():
        del files[name]
    for words in (("verify", f"hf-hub:{REPO}"), ("export", f"hf-hub:{REPO}", "--triton", str(tmp_path / "triton"))):
        refused = client(hub, tmp_path / "reader", command(*words))
        assert refused.returncode == USAGE_ERROR
        assert message in " ".join(refused.stderr.split())
    assert not (tmp_path / "triton").exists()


def test_an_interrupted_push_is_resumed_by_repeating_it(hub: LoopbackHub, bundle: Path, tmp_path: Path) -> None:
    hub.refuse_uploads = True  # after the first file
    first = client(hub, tmp_path, PUSH, bundle)
    assert first.returncode != 0
    assert "HubError" in first.stderr
    assert hub.repositories[REPO].commits == []  # nothing is half-published
    arrived = set(hub.uploads)
    assert arrived

    hub.refuse_uploads = False
    assert client(hub, tmp_path, PUSH, bundle).returncode == 0
    assert len(hub.uploads) == len(set(hub.uploads))  # what had arrived was not sent again
    assert len(hub.repositories[REPO].commits) == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_what_an_older_bundle_left_goes_in_the_same_commit(
    damaged: bool, hub: LoopbackHub, bundle: Path, result: HardenResult, tmp_path: Path
) -> None:
    """Its perturbations, smaller models and signature: beside them no reader would take the new bundle."""
    older = shutil.copytree(bundle, tmp_path / "older")
    (older / "model.int8.onnx").write_bytes(b"of an older version")
    if not damaged:
        (older / "notes.txt").write_text("listed, and no name of ours")
    seal(older)
    (older / "model.sig").write_text("signed")
    assert client(hub, tmp_path / "author", PUSH, older, pictures=True).returncode == 0
    repository = hub.repositories[REPO]
    files = repository.files[repository.branches["main"]]
    files["images/of-the-publisher.png"] = b"no bundle wrote it"
    files[".gitattributes"] = b"the Hub's own"
    if damaged:
        files["checksums.json"] = b"{"
    again = write_bundle(result.model, tmp_path / "new")  # without a report, and what belongs to one
    pushed = client(hub, tmp_path / "author", PUSH, again)
    assert pushed.returncode == 0, pushed.stderr
    assert len(repository.commits) == 2
    files = repository.files[repository.branches["main"]]
    wanted = {path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()}
    assert set(files) == wanted | {"images/of-the-publisher.png", ".gitattributes"}
    del files["images/of-the-publisher.png"]
    fetched = client(hub, tmp_path / "reader", FETCH)
    assert fetched.returncode == 0, fetched.stderr


def test_pull_requests_and_stale_parents(hub: LoopbackHub, bundle: Path, tmp_path: Path) -> None:
    assert client(hub, tmp_path, PUSH, bundle, create_pr=True).stdout.strip().endswith("/discussions/1")
    assert hub.repositories[REPO].branches["main"] == "0" * 40
    stale = client(hub, tmp_path, PUSH, bundle, parent_commit="1" * 40)
    assert "the branch has moved on" in stale.stderr


@pytest.mark.parametrize(
    ("code", "token", "message"),
    [
        (PUSH, None, "token"),
        (PUSH, "hf_wrong", "not valid"),
        (FETCH, TOKEN, "There is no repository"),
        (FETCH.replace("REPO", "'no/../where'"), TOKEN, "ORG/NAME"),
    ],
)
def test_refusals_say_what_to_do(
    code: str, token: str | None, message: str, hub: LoopbackHub, bundle: Path, tmp_path: Path
) -> None:
    done = client(hub, tmp_path, code, bundle, token=token)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "HubError" in last
    assert message in last


def test_a_hub_that_does_not_answer_is_an_error_of_ours(bundle: Path, tmp_path: Path) -> None:
    closed = LoopbackHub()
    closed.server_close()
    for code in (PUSH, FETCH):
        done = client(closed, tmp_path, code, bundle)
        assert done.returncode != 0
        last = done.stderr.strip().splitlines()[-1]
        assert "HubError" in last
        assert "cannot be reached" in last


def test_a_private_repository_is_not_shown_to_strangers(hub: LoopbackHub, bundle: Path, tmp_path: Path) -> None:
    assert client(hub, tmp_path, PUSH, bundle).returncode == 0
    stranger = client(hub, tmp_path / "other", FETCH, token=None)
    assert "may not see it" in stranger.stderr


def test_a_damaged_bundle_is_neither_published_nor_accepted(
    hub: LoopbackHub, result: HardenResult, tmp_path: Path
) -> None:
    folder = write_bundle(result.model, tmp_path)
    (folder / "labels.json").write_text("[]")
    pushed = client(hub, tmp_path / "home", PUSH, folder)
    assert "labels.json" in pushed.stderr
    assert "not the file that was written" in pushed.stderr
    assert REPO not in hub.repositories


def test_links_and_stray_files_are_not_published(hub: LoopbackHub, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    for name, spoil, message in (
        ("linked", lambda f: (f / "linked.txt").symlink_to(tmp_path / "secret"), "linked.txt"),
        ("stray", lambda f: (f / "credentials.json").write_text("{}"), "credentials.json"),
        ("replaced", lambda f: replaced_by_a_link(f / "labels.json", tmp_path / "labels"), "labels.json in"),
    ):
        folder = shutil.copytree(bundle, tmp_path / name)
        spoil(folder)
        refused = client(hub, tmp_path / "home", command("push", str(folder), REPO))
        assert refused.returncode == USAGE_ERROR
        assert message in " ".join(refused.stderr.split())
    assert REPO not in hub.repositories


def replaced_by_a_link(path: Path, elsewhere: Path) -> None:
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def test_a_push_shows_what_goes_up_and_keeps_test_pictures_back(hub: LoopbackHub, bundle: Path, tmp_path: Path) -> None:
    assert read_json(bundle / "report.json")["gallery"]["images"]
    pushed = client(hub, tmp_path, command("push", str(bundle), REPO))
    assert pushed.returncode == 0, pushed.stderr
    files = hub.repositories[REPO].files[hub.repositories[REPO].branches["main"]]
    for name in files:
        assert f" {name}\n" in pushed.stderr
    assert "private" in pushed.stderr
    assert "gallery" not in json.loads(files["report.json"])
    assert b"data:image/png" not in files["report.html"]
    assert read_json(bundle / "report.json")["gallery"]["images"], "the folder stays as it is"
    fetched = client(hub, tmp_path / "reader", FETCH)
    assert fetched.returncode == 0, fetched.stderr


def test_a_fetched_bundle_with_a_file_that_no_list_names_is_refused(
    hub: LoopbackHub, bundle: Path, tmp_path: Path
) -> None:
    assert client(hub, tmp_path / "author", PUSH, bundle).returncode == 0
    repository = hub.repositories[REPO]
    repository.files[repository.branches["main"]]["serve/__pycache__/settings.cpython-311.pyc"] = b"code"
    fetched = client(hub, tmp_path / "reader", FETCH)
    assert fetched.returncode != 0
    assert "settings.cpython-311.pyc" in fetched.stderr


def test_a_model_is_not_loaded_from_a_repository_that_was_altered(
    hub: LoopbackHub, bundle: Path, tmp_path: Path
) -> None:
    assert client(hub, tmp_path / "author", PUSH, bundle).returncode == 0
    repository = hub.repositories[REPO]
    files = repository.files[repository.branches["main"]]
    files["config.json"] = files["config.json"].replace(b'"red"', b'"RED"')
    load = "import sys; sys.path.insert(0, FOLDER)\nfrom export_helpers import TinyBackbone\n"
    load += "from genaf_sdk import HardenedModel\n"
    load += "print(HardenedModel.from_pretrained(REPO, backbone=TinyBackbone(), **OPTIONS).class_names)"
    refused = client(hub, tmp_path / "reader", load, Path(__file__).parent)
    assert refused.returncode != 0
    assert "config.json in" in refused.stderr
    assert "is not the file that was written" in refused.stderr
    loaded = client(hub, tmp_path / "reader", load, Path(__file__).parent, check_files=False)
    assert "'RED'" in loaded.stdout, loaded.stderr


def test_the_card_has_valid_metadata_and_escapes_what_it_quotes(bundle: Path, result: HardenResult) -> None:
    from huggingface_hub import ModelCard

    text = (bundle / "README.md").read_text()
    metadata = card_metadata(text)
    assert metadata["library_name"] == "genaf-sdk"
    assert metadata["pipeline_tag"] == "image-classification"
    results = ModelCard(text).data.eval_results
    assert results is not None
    reported = {f"accuracy, {s.column}-{s.attack}".rstrip("-") for s in result.report.scores if s.model == "hardened"}  # type: ignore[union-attr]
    assert {r.metric_name for r in results} == {name.replace("noise-noise", "noise") for name in reported}

    from genaf_sdk.export.card import model_card

    assert not {"license", "datasets", "base_model"} & set(metadata)  # nothing is known of them here, nothing is said
    assert result.report is not None
    report = copy.copy(result.report)
    report.data = replace(report.data, name="hub:org/pictures")
    model = replace(ModelFacts.of(result.model), encoder="timm/vit_tiny_patch16_224.augreg_in21k")
    stated = card_metadata(model_card(model, report, license_id="apache-2.0"))
    assert (stated["license"], stated["datasets"]) == ("apache-2.0", ["org/pictures"])
    assert stated["base_model"] == "timm/vit_tiny_patch16_224.augreg_in21k"

    commit = "0123456789" * 4
    for source in (
        "hf-hub:org/encoder",
        f"hf-hub:org/encoder@{commit}",
        f'hf-hub:org/encoder@{commit}:{{"a":{{"b":"c"}}}}',
    ):
        card = model_card(replace(model, encoder=source), report)
        assert card_metadata(card)["base_model"] == "org/encoder"
        assert '"b"' not in card, "what rebuilds it is for programs"

    names = ("<script>alert(1)</script>", "[link](http://x)", "| a | b |\n# heading")
    hostile = model_card(replace(model, class_names=names), None)
    assert "<script>" not in hostile
    assert "[link](" not in hostile
    assert "\n# heading" not in hostile


def test_the_cards_snippet_runs_with_onnxruntime_alone(bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    snippet = (bundle / "README.md").read_text().split("```python\n")[1].split("```")[0]
    Image.new("RGB", (40, 30), (250, 20, 20)).save(bundle / "picture.png")
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"{snippet}\nimport sys; assert 'torch' not in sys.modules"],
            cwd=bundle, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        (bundle / "picture.png").unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in json.loads((bundle / "labels.json").read_text())


def test_the_models_own_push_publishes_a_whole_bundle(hub: LoopbackHub, result: HardenResult, tmp_path: Path) -> None:
    model_folder = tmp_path / "model"
    result.model.save_pretrained(model_folder)
    torch.manual_seed(0)
    code = f"""
import sys
sys.path.insert(0, FOLDER)
from export_helpers import TinyBackbone
from genaf_sdk import HardenedModel
print(HardenedModel.from_pretrained({str(model_folder)!r}, backbone=TinyBackbone()).push_to_hub(REPO))
"""
    done = client(hub, tmp_path, code, Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    files = hub.repositories[REPO].files[hub.repositories[REPO].branches["main"]]
    assert {"model.onnx", "model.safetensors", "config.json", "README.md", "checksums.json"} <= set(files)
