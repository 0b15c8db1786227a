"""Who made a bundle: signed over every file, refused after one changed bit, and no word of a private key anywhere."""

from __future__ import annotations

import base64
import datetime as dt
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genaf_sdk.cli import DONE, USAGE_ERROR, main
from genaf_sdk.data import DataSplits
from genaf_sdk.errors import ConfigError, ExportError
from genaf_sdk.export.integrity import publishable, seal
from genaf_sdk.export.layout import CHECKSUMS_FILE, HTML_FILE, REPORT_FILE, SIGNATURE_FILE
from genaf_sdk.export.outcome import Outcome
from genaf_sdk.export.publication import publication
from genaf_sdk.export.serve import ServeError, load_bundle, open_bundle
from genaf_sdk.export.serve.__main__ import main as serve_main
from genaf_sdk.export.serve.errors import BundleError, SettingsError
from genaf_sdk.export.signing import Signer, require_signature, sign_bundle
from genaf_sdk.models.checksums import check_whole, digest
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.verification import verify

pytest.importorskip("model_signing", reason="the extra `signing` is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from model_signing import hashing, signing, verifying

PEM = serialization.Encoding.PEM
PASSWORD = "correct-horse-battery"
TODAY = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


def write_key(key: Any, path: Path, password: str = "") -> Path:
    """Write a private key, and what others need of it beside it as ``.pub``; return the first."""
    locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return path


def certificate(
    subject: str,
    key: Any,
    issuer: x509.Certificate | None = None,
    issuer_key: Any = None,
    *,
    start: dt.datetime = TODAY - DAY,
    end: dt.datetime = TODAY + DAY,
) -> x509.Certificate:
    """Return a certificate: of an authority where it issues itself, else of one who signs."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    authority = issuer is None
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name if issuer is None else issuer.subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(end).add_extension(usage, critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    return builder.sign(issuer_key or key, hashes.SHA256())


class Authority:
    """An authority, whose certificate is ``root.pem``, and what it gives to signers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        long = {"start": TODAY - 1000 * DAY, "end": TODAY + 1000 * DAY}
        self.certificate = certificate("Authority", self.key, **long)
        self.root = folder / "root.pem"
        self.root.write_bytes(self.certificate.public_bytes(PEM))

    def signer(self, name: str, **dates: dt.datetime) -> Signer:
        key = ec.generate_private_key(ec.SECP256R1())
        path = self.folder / f"{name}.crt"
        path.write_bytes(certificate(name, key, self.certificate, self.key, **dates).public_bytes(PEM))
        return Signer(write_key(key, self.folder / f"{name}.key"), path)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(ec.generate_private_key(ec.SECP256R1()), tmp_path / "own.key")


@pytest.fixture
def public(key: Path) -> str:
    return str(key.with_suffix(".pub"))


@pytest.fixture
def signed(forged: Path, key: Path) -> Path:
    sign_bundle(forged, Signer(key))
    return forged


def both_refuse(folder: Path, trusted: str, match: str) -> None:
    """The verifier and the server refuse a bundle, for the same reason."""
    with pytest.raises(ExportError, match=match):
        require_signature(folder, trusted)
    with pytest.raises(BundleError, match=match):
        open_bundle(folder, signed_by=trusted)


def test_a_signed_bundle_is_verified_and_served(signed: Path, key: Path, public: str, digits: DataSplits) -> None:
    item = require_signature(signed, public)
    names = {*check_whole(signed), CHECKSUMS_FILE}
    assert item.agrees
    assert item.stated == f"{len(names)} files"
    served = load_bundle(signed, signed_by=public)
    assert served.bundle.signed_by == item.found
    openssl = shutil.which("openssl")
    if openssl:
        der = subprocess.run(
            [openssl, "pkey", "-pubin", "-in", public, "-outform", "DER"], capture_output=True, check=True
        )
        digest = hashes.Hash(hashes.SHA256())
        digest.update(der.stdout)
        assert item.found == f"the key SHA256:{digest.finalize().hex()}", "as a reader can compute it"
    found = verify(signed, digits, signed_by=public)
    assert found.agrees
    assert item.found in found.summary
    assert "not who made them" not in found.summary


def test_without_a_key_a_signature_says_nothing(signed: Path, digits: DataSplits) -> None:
    found = verify(signed, digits)
    (item,) = (item for item in found.items if item.what == "signature")
    assert item.outcome == Outcome.NOT_REPLAYED
    assert "not who made them" in found.summary


def test_the_library_itself_accepts_the_signature(signed: Path, public: str) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    command += ["--signature", str(signed / SIGNATURE_FILE), "--public_key", public]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_bit_anywhere_is_refused(signed: Path, public: str) -> None:
    names = [*check_whole(signed), CHECKSUMS_FILE]
    assert {"config.json", "model.safetensors", "model.onnx", "report.json", "serve/server.py"} <= set(names)
    for name in names:
        path = signed / name
        content = path.read_bytes()
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        with pytest.raises(BundleError, match="is not the file that was signed"):
            open_bundle(signed, signed_by=public)
        path.write_bytes(content)
    require_signature(signed, public)


def test_one_bit_of_the_signature_is_refused(signed: Path, public: str) -> None:
    path = signed / SIGNATURE_FILE
    document = json.loads(path.read_text())
    envelope = document["dsseEnvelope"]
    for holder, name in ((envelope, "payload"), (envelope["signatures"][0], "sig")):
        original = holder[name]
        content = bytearray(base64.b64decode(original))
        content[len(content) // 2] ^= 1
        holder[name] = base64.b64encode(content).decode()
        path.write_text(json.dumps(document))
        both_refuse(signed, public, "signature")
        holder[name] = original
    for text in ("", "[]", "null", "{}", '{"dsseEnvelope": {"payload": 3}}', "[" * 100_000, "\xff"):
        path.write_text(text, encoding="latin-1")
        both_refuse(signed, public, "no signature of a bundle")


def test_a_signature_of_a_name_that_no_file_can_have_is_refused(signed: Path, public: str) -> None:
    path = signed / SIGNATURE_FILE
    document = json.loads(path.read_text())
    statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
    statement["predicate"]["resources"][0]["name"] = "x" * 5000
    document["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    path.write_text(json.dumps(document))
    both_refuse(signed, public, "was signed and is missing")


def reseal(folder: Path) -> None:
    (folder / "labels.json").write_text(json.dumps(list("abcdefghij")))
    seal(folder)


ALTERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "sealed again": (reseal, "is not the file that was signed"),
    "a file more": (lambda folder: (folder / "extra.txt").write_text("x"), "is not (signed|listed)"),
    "hidden code": (lambda folder: (folder / "serve" / "__init__.pyc").write_text("x"), "is not (signed|listed)"),
    "a file less": (lambda folder: (folder / "labels.json").unlink(), "was signed and is missing"),
    "unsigned": (lambda folder: (folder / SIGNATURE_FILE).unlink(), "is not signed"),
}


@pytest.mark.parametrize("how", ALTERED)
def test_an_altered_bundle_is_refused(how: str, signed: Path, public: str) -> None:
    change, match = ALTERED[how]
    change(signed)
    both_refuse(signed, public, match)


def test_another_s_signature_is_refused(signed: Path, public: str, tmp_path: Path) -> None:
    other = write_key(ec.generate_private_key(ec.SECP256R1()), tmp_path / "other.key")
    both_refuse(signed, str(other.with_suffix(".pub")), "does not hold, or is not of")
    sign_bundle(signed, Signer(other))
    both_refuse(signed, public, "does not hold, or is not of")
    document = json.loads((signed / SIGNATURE_FILE).read_text())
    document["verificationMaterial"]["publicKey"] = {}
    (signed / SIGNATURE_FILE).write_text(json.dumps(document))
    both_refuse(signed, public, "does not hold, or is not of")


def test_a_signature_that_leaves_files_out_is_refused(forged: Path, key: Path, public: str) -> None:
    """The right key, but somebody else's tool, told to pass over the weights."""
    left = ["model.safetensors", SIGNATURE_FILE]
    settings = hashing.Config().use_file_serialization().set_ignored_paths(paths=left)
    config = signing.Config().set_hashing_config(settings).use_elliptic_key_signer(private_key=key)
    config.sign(forged, forged / SIGNATURE_FILE)
    both_refuse(forged, public, "'model.safetensors' in .* is not signed")


def test_a_list_that_names_what_is_never_signed_is_refused(forged: Path, key: Path, public: str) -> None:
    """What a run leaves beside its bundle may be changed by anybody, whatever the list says of it."""
    (forged / "metrics.jsonl").write_text("{}")
    content = json.loads((forged / CHECKSUMS_FILE).read_text())
    content["sha256"]["metrics.jsonl"] = digest(forged / "metrics.jsonl")
    (forged / CHECKSUMS_FILE).write_text(json.dumps(content))
    settings = hashing.Config().use_file_serialization().set_ignored_paths(paths=["metrics.jsonl", SIGNATURE_FILE])
    config = signing.Config().set_hashing_config(settings).use_elliptic_key_signer(private_key=key)
    config.sign(forged, forged / SIGNATURE_FILE)
    with pytest.raises(ExportError, match=r"metrics\.jsonl in .* is not signed"):
        require_signature(forged, public)


@pytest.mark.parametrize("form", [{"hashing_algorithm": "blake2"}, {"shard_size": 1000}], ids=["blake2", "shards"])
def test_other_forms_of_manifests_are_refused(form: dict[str, Any], forged: Path, key: Path, public: str) -> None:
    settings = hashing.Config()
    settings = (
        settings.use_shard_serialization(**form) if "shard_size" in form else settings.use_file_serialization(**form)
    )
    config = signing.Config().set_hashing_config(settings).use_elliptic_key_signer(private_key=key)
    config.sign(forged, forged / SIGNATURE_FILE)
    both_refuse(forged, public, "no signature of a bundle")


def test_what_a_run_or_the_hub_leaves_is_not_signed_and_does_no_harm(forged: Path, key: Path, public: str) -> None:
    (forged / "checkpoints").mkdir()
    for name in ("checkpoints/weights", "metrics.jsonl", ".report.json.0123456789abcdef.partial"):
        (forged / name).write_text("at signing")
    sign_bundle(forged, Signer(key))
    (forged / ".report.json.0123456789abcdef.partial").unlink()
    for name in ("checkpoints/weights", "metrics.jsonl", ".gitattributes"):
        (forged / name).write_text("later")
    require_signature(forged, public)
    open_bundle(forged, signed_by=public)


def test_the_hub_s_cache_is_made_of_links(signed: Path, public: str, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    for file in publishable(signed):
        (snapshot / file.name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file.name).symlink_to(signed / file.name)
    require_signature(snapshot, public)
    (signed / "labels.json").write_text("[]")
    both_refuse(snapshot, public, "is not the file that was signed")


def test_what_is_served_is_what_was_signed(signed: Path, public: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that change after the signature was checked are held against it once more as they are read."""
    from genaf_sdk.export.serve import bundle as serve_bundle

    def late(folder: Path, signed_by: str) -> Any:
        found = original(folder, signed_by)
        reseal(folder)
        return found

    original = serve_bundle.require_signed
    monkeypatch.setattr(serve_bundle, "require_signed", late)
    with pytest.raises(BundleError, match="its signature says"):
        open_bundle(signed, signed_by=public)


def test_certificates(forged: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    assert sign_bundle(forged, authority.signer("Alice")) == "CN=Alice"
    assert require_signature(forged, str(authority.root)).found.startswith("CN=Alice, whom ")
    assert open_bundle(forged, signed_by=str(authority.root)).signed_by.startswith("CN=Alice")
    (tmp_path / "elsewhere").mkdir()
    both_refuse(forged, str(Authority(tmp_path / "elsewhere").root), "does not hold")
    both_refuse(forged, str(tmp_path / "Alice.pub"), "does not hold")
    (forged / "labels.json").write_text("[]")
    both_refuse(forged, str(authority.root), "is not the file that was signed")


def test_a_signature_by_key_is_none_of_an_authority(signed: Path, tmp_path: Path) -> None:
    both_refuse(signed, str(Authority(tmp_path).root), "does not hold")


def test_an_expired_certificate_neither_signs_nor_counts(forged: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    old = authority.signer("Old", start=TODAY - 9 * DAY, end=TODAY - 2 * DAY)
    with pytest.raises(ConfigError, match="and not today"):
        sign_bundle(forged, old)
    with pytest.raises(ConfigError, match="and not today"):
        sign_bundle(forged, authority.signer("Early", start=TODAY + DAY, end=TODAY + 2 * DAY))
    settings = hashing.Config().use_file_serialization().set_ignored_paths(paths=[SIGNATURE_FILE])
    signing.Config().set_hashing_config(settings).use_certificate_signer(
        private_key=old.key, signing_certificate=old.certificates, certificate_chain=[old.certificates]
    ).sign(forged, forged / SIGNATURE_FILE)  # by whoever stole the key
    both_refuse(forged, str(authority.root), "not valid today.*expired")


def test_a_certificate_of_another_key_is_refused(forged: Path, key: Path, tmp_path: Path) -> None:
    other = Authority(tmp_path).signer("Alice")
    with pytest.raises(ConfigError, match="is not of this key"):
        sign_bundle(forged, Signer(key, other.certificates))
    with pytest.raises(ConfigError, match="no certificate"):
        sign_bundle(forged, Signer(key, key.with_suffix(".pub")))
    assert not (forged / SIGNATURE_FILE).exists()


def test_a_key_with_a_password(forged: Path, tmp_path: Path) -> None:
    path = write_key(ec.generate_private_key(ec.SECP384R1()), tmp_path / "locked.key", PASSWORD)
    sign_bundle(forged, Signer(path, password=PASSWORD))
    require_signature(forged, str(path.with_suffix(".pub")))
    with pytest.raises(ConfigError, match="password is wrong"):
        sign_bundle(forged, Signer(path, password="wrong"))
    with pytest.raises(ConfigError, match="GENAF_KEY_PASSWORD"):
        sign_bundle(forged, Signer(path))
    with pytest.raises(ConfigError, match="takes none with a certificate"):
        sign_bundle(forged, Signer(path, path.with_suffix(".pub"), PASSWORD))
    assert PASSWORD not in repr(Signer(path, password=PASSWORD))


def bad_keys(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "garbage").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    (folder / "empty").write_text("")
    return {
        "missing": (folder / "nowhere", "There is no file"),
        "a folder": (folder, "There is no file"),
        "empty": (folder / "empty", "no private key"),
        "garbage": (folder / "garbage", "cannot be read"),
        "RSA": (write_key(rsa.generate_private_key(65537, 2048), folder / "rsa.key"), "P-256, P-384 or P-521"),
        "Ed25519": (write_key(ed25519.Ed25519PrivateKey.generate(), folder / "ed.key"), "P-256, P-384 or P-521"),
        "another curve": (
            write_key(ec.generate_private_key(ec.SECP256K1()), folder / "k.key"),
            "P-256, P-384 or P-521",
        ),
    }


def test_unusable_keys_are_named(forged: Path, signed: Path, tmp_path: Path, key: Path) -> None:
    keys = bad_keys(tmp_path) | {"public": (key.with_suffix(".pub"), "no private key")}
    before = (signed / SIGNATURE_FILE).read_bytes()
    for name, (path, match) in keys.items():
        with pytest.raises(ConfigError, match=match):
            sign_bundle(forged, Signer(path))
        public = path.with_suffix(".pub") if path.with_suffix(".pub").is_file() and name != "public" else path
        if name == "public":
            continue
        with pytest.raises(ConfigError):
            require_signature(signed, str(public))
        with pytest.raises(SettingsError):
            open_bundle(signed, signed_by=str(public))
    for text in ("sigstore:", "sigstore:me", "sigstore:,issuer", "sigstore:me,"):
        with pytest.raises(ConfigError, match="IDENTITY,ISSUER"):
            require_signature(signed, text)
    assert (signed / SIGNATURE_FILE).read_bytes() == before


def test_a_private_key_is_never_what_others_need(signed: Path, key: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a private key.*-pubout"):
        require_signature(signed, str(key))


def test_sigstore_is_asked_for_the_identity_and_fails_without_a_token_in_the_text(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def unreachable(config: object, **options: Any) -> None:
        asked.append(options)
        raise ConnectionError("Authorization: Bearer canary")

    monkeypatch.setattr(signing.Config, "use_sigstore_signer", unreachable)
    monkeypatch.setattr(verifying.Config, "use_sigstore_verifier", unreachable)
    before = (signed / SIGNATURE_FILE).read_bytes()
    with pytest.raises(ExportError, match=r"ConnectionError.*network") as raised:
        sign_bundle(signed, Signer("sigstore"))
    assert (signed / SIGNATURE_FILE).read_bytes() == before
    with pytest.raises(ConfigError, match=r"ConnectionError.*network") as checked:
        require_signature(signed, "sigstore:me@example.org,https://accounts.example.org")
    assert "canary" not in str(raised.value) + str(checked.value)
    assert asked[1] == {"identity": "me@example.org", "oidc_issuer": "https://accounts.example.org"}


def test_one_file_has_no_signature(signed: Path, public: str) -> None:
    with pytest.raises(SettingsError, match="one file"):
        open_bundle(signed / "model.onnx", signed_by=public)


def test_nothing_of_a_key_is_printed_logged_or_raised(
    forged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    path = write_key(ec.generate_private_key(ec.SECP256R1()), tmp_path / "locked.key", PASSWORD)
    plain = write_key(ec.generate_private_key(ec.SECP256R1()), tmp_path / "plain.key")
    broken = tmp_path / "broken.key"
    broken.write_text(plain.read_text().replace("A", "B"))
    monkeypatch.setenv("GENAF_KEY_PASSWORD", PASSWORD)
    for debug in ([], ["--debug"]):
        for given, code in ((path, DONE), (plain, DONE), (broken, USAGE_ERROR)):
            assert main(["sign", str(forged), str(given), *debug]) == code
    monkeypatch.setenv("GENAF_KEY_PASSWORD", f"not-{PASSWORD}")
    assert main(["sign", str(forged), str(path), "--debug"]) == USAGE_ERROR
    assert main(["verify", str(forged), "--signed-by", str(plain), "--debug"]) == USAGE_ERROR
    said = "".join(capsys.readouterr()) + caplog.text + (forged / SIGNATURE_FILE).read_text()
    secrets = [PASSWORD]
    for file in (path, plain, broken):
        secrets += file.read_text().splitlines()[1:-1]
    assert not [secret for secret in secrets if secret in said]


def test_the_command_line_signs_and_verifies(
    forged: Path, key: Path, public: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(forged), "--signed-by", public, "--json"]) == USAGE_ERROR
    assert "is not signed" in json.loads(capsys.readouterr().out)["error"]["problem"]
    assert main(["sign", str(forged), str(key), "--json"]) == DONE
    by = json.loads(capsys.readouterr().out)["signed_by"]
    assert main(["verify", str(forged), "--signed-by", public, "--json"]) == DONE
    assert by in json.loads(capsys.readouterr().out)["summary"]


def test_the_server_refuses_what_is_not_signed(forged: Path, public: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(forged), "--signed-by", public, "--http-port", "0", "--grpc-port", "-1"]
    assert serve_main(arguments, program="genaf serve", bundle=None) == 2
    assert "is not signed" in capsys.readouterr().err


def test_without_the_library_both_say_what_to_install(
    signed: Path, key: Path, public: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(ConfigError, match=r"genaf-sdk\[signing\]"):
        sign_bundle(signed, Signer(key))
    with pytest.raises(ServeError, match="model-signing and pyopenssl"):
        open_bundle(signed, signed_by=public)
    assert open_bundle(signed).signed_by == "", "only who asks for a signature needs the library"


def test_what_is_published_is_signed_without_its_pictures(forged: Path, key: Path, public: str) -> None:
    before = (forged / REPORT_FILE).read_bytes()
    gallery = RobustnessReport.load(forged).gallery
    assert gallery is not None
    assert gallery.images
    with publication(forged, pictures=False, signer=Signer(key)) as ready:
        require_signature(ready, public)
        assert SIGNATURE_FILE in [file.name for file in publishable(ready)]
        stripped = RobustnessReport.load(ready).gallery
        assert stripped is None or not stripped.images
    assert not (forged / SIGNATURE_FILE).exists(), "the folder stays as it is"
    assert (forged / REPORT_FILE).read_bytes() == before


def test_a_signature_that_would_break_is_not_published(signed: Path, public: str) -> None:
    with pytest.raises(ExportError, match="--sign KEY"), publication(signed, pictures=False):
        pass
    with publication(signed, pictures=True) as ready:
        require_signature(ready, public)


def test_the_page_of_a_signed_bundle_stays(signed: Path, public: str, tmp_path: Path) -> None:
    (signed / HTML_FILE).touch()
    page = (signed / HTML_FILE).read_bytes()
    assert main(["report", str(signed)]) == DONE
    assert (signed / HTML_FILE).read_bytes() == page
    assert main(["report", str(signed), "--output", str(tmp_path / "page.html")]) == DONE
    assert (tmp_path / "page.html").is_file()
    assert main(["report", str(signed), "--output", str(signed / "other.html")]) == USAGE_ERROR
    require_signature(signed, public)


def test_the_claim_is_named_by_hash(signed: Path, digits: DataSplits) -> None:
    items = {item.what: item for item in verify(signed, digits).items}
    for what in ("encoder, as in the model", "data by hash", "settings by hash", "encoder by hash"):
        assert items[what].agrees is True, what


@pytest.mark.parametrize(
    ("name", "what"),
    [("encoder_sha256", "encoder by hash"), ("data_sha256", "data by hash"), ("settings_sha256", "settings by hash")],
)
def test_a_wrong_hash_in_the_claim_is_found(name: str, what: str, forged: Path, digits: DataSplits) -> None:
    content = json.loads((forged / REPORT_FILE).read_text())
    content["provenance"][name] = "0" * 64
    (forged / REPORT_FILE).write_text(json.dumps(content))
    seal(forged)
    assert what in [item.what for item in verify(forged, digits).differences]


def test_reports_without_the_claim_are_still_read(forged: Path, digits: DataSplits) -> None:
    content = json.loads((forged / REPORT_FILE).read_text())
    del content["provenance"]
    report = RobustnessReport.from_dict(content)
    assert report.provenance is None
    assert "provenance" not in report.to_dict()
