"""Who signed a bundle: OpenSSF model signing over every file, held against a key or certificate that the reader trusts.

The signature, ``model.sig``, lies beside ``checksums.json`` and is not listed in it: it covers the list, too.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import BundleError, SettingsError
from .files import MAX_JSON, read_file
from .logs import printable

SIGNATURE_FILE = "model.sig"
LEFTOVERS = ("checkpoints/", "metrics.jsonl", "genaf-sdk/", ".genaf.lock", ".gitattributes", ".cache/")
"""What a run, a tracker or the Hub leaves beside a bundle: not signed, and not read."""
PREDICATE = "https://model_signing/signature/v1.0"
SIGSTORE = "sigstore:"
MAX_KEY = 2**20
"""Bytes of a file of keys or certificates."""
TRUSTED = "a public key or a certificate in PEM, or sigstore:IDENTITY,ISSUER"
Document = dict[str, Any]
_MINE_OR_NOT = "move it elsewhere if it is yours; otherwise use nothing of this folder"
_COMPILED = "remove the folders __pycache__: Python leaves them where a bundle's own code is run without -B"
_SUSPECT = "download the bundle again; if it is refused again, use nothing of this folder"


@dataclass(frozen=True)
class Signed:
    """A signature that holds.

    Args:
        by: Whose it is, as text for people.
        files: SHA-256 of every file that it covers, by its path in the folder.
    """

    by: str
    files: dict[str, str]


@dataclass(frozen=True)
class _Trust:
    """Whom the reader trusts.

    Args:
        configure: Tells the library.
        name: For people.
        authority: PEM of the certificates that a signer's has to follow from; empty where there are none.
    """

    configure: Callable[[Any], Any]
    name: str
    authority: bytes = b""


def require_signed(folder: Path, signed_by: str) -> Signed:
    """Check that a bundle is signed by somebody whom the reader trusts, and that no file was changed, added or lost.

    Args:
        folder: The bundle.
        signed_by: A PEM file of the signer's public key, or of the certificate of an authority that vouches for the
            signer; or ``sigstore:IDENTITY,ISSUER``, which asks the network for sigstore's own keys.

    Raises:
        SettingsError: The key is missing or is none, or the library is not installed.
        BundleError: The bundle is not signed, is signed by another, was altered, or a certificate has expired.
    """
    trust = _trust(signed_by)
    path = folder / SIGNATURE_FILE
    if not path.exists():
        raise BundleError(
            f"{folder} is not signed: there is no {SIGNATURE_FILE}.",
            expected=f"a bundle signed by {signed_by}",
            remedy="ask its publisher for a signed one; use nothing of this folder",
        )
    content = read_file(path, MAX_JSON)
    try:
        document = json.loads(content)
        files = signed_files(content)
    except (ValueError, TypeError, KeyError, LookupError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} is no signature of a bundle, or a damaged one.", remedy=_SUSPECT) from error
    missing = [name for name in files if not _is_file(folder / name)]
    if missing:
        raise BundleError(f"{missing[0]!r:.200} in {folder} was signed and is missing.", remedy=_SUSPECT)
    try:
        config = trust.configure(_config())
    except Exception as error:  # every library underneath raises its own
        raise SettingsError(
            f"{signed_by} cannot be used to check signatures: {type(error).__name__}.",
            expected=TRUSTED,
            remedy="check the network: sigstore's own keys are fetched" if signed_by.startswith(SIGSTORE) else "",
        ) from error
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / SIGNATURE_FILE  # what is parsed here is what the library checks
        copy.write_bytes(content)
        try:
            # The library says on standard output what it thinks of older signatures.
            with contextlib.redirect_stdout(None):
                config.verify(folder, copy)
        except Exception as error:  # every library underneath raises its own
            raise BundleError(_reason(folder, files, error, signed_by), remedy=_SUSPECT) from error
    by = trust.name
    if trust.authority:
        _check_validity(trust, document)
        by = f"{_chain(document)[0].subject.rfc4514_string()}, whom {trust.name} vouches for"
    stray = sorted(_found(folder) - set(files) - {SIGNATURE_FILE})
    if stray:
        raise BundleError(
            f"{stray[0]!r} in {folder} is not signed.",
            expected="the files of the bundle and no others",
            remedy=_COMPILED if all("__pycache__" in name.split("/") for name in stray) else _MINE_OR_NOT,
        )
    return Signed(printable(by), files)


def signed_files(content: bytes) -> dict[str, str]:
    """Return the SHA-256 of every file that a signature states, by its path; nothing is verified here.

    Raises:
        ValueError: It states none in the form that bundles are signed in. Or another error of parsing.
    """
    payload = base64.b64decode(json.loads(content)["dsseEnvelope"]["payload"], validate=True)
    statement = json.loads(payload)
    predicate = statement["predicate"]
    form = (statement["predicateType"], predicate["serialization"]["method"], predicate["serialization"]["hash_type"])
    if form != (PREDICATE, "files", "sha256"):
        raise ValueError(f"the form is {form}")
    files: dict[str, str] = {}
    for entry in predicate["resources"]:
        name, digest = entry["name"], bytes.fromhex(entry["digest"])
        inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        if entry["algorithm"] != "sha256" or len(digest) != 32 or not inside or name in files:
            raise ValueError(f"a file is stated as {name!r:.100}")
        files[name] = digest.hex()
    if not files:
        raise ValueError("no file is stated")
    return files


def _trust(signed_by: str) -> _Trust:
    if signed_by.startswith(SIGSTORE):
        identity, comma, issuer = signed_by.removeprefix(SIGSTORE).rpartition(",")
        if not (identity and comma and issuer):
            raise SettingsError(f"{signed_by!r} names no identity and issuer.", expected=f"{SIGSTORE}IDENTITY,ISSUER")
        _library()
        return _Trust(
            lambda config: config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer),
            f"{identity}, whom {issuer} vouches for",
        )
    path = Path(signed_by)
    if not path.is_file():
        raise SettingsError(f"There is no file {path} with a key.", expected=TRUSTED)
    try:
        pem = read_file(path, MAX_KEY)
    except BundleError as error:
        raise SettingsError(f"The key {path} cannot be read.", expected=TRUSTED) from error
    if b"PRIVATE KEY" in pem:
        raise SettingsError(
            f"{path} holds a private key.",
            expected=TRUSTED,
            remedy=f"openssl pkey -in {path} -pubout writes its public key; keep the private one to yourself",
        )
    _library()
    if b"BEGIN CERTIFICATE" in pem:
        _certificates(path, pem)
        return _Trust(lambda config: config.use_certificate_verifier(certificate_chain=[path]), str(path), pem)
    name = f"the key {key_name(_public_key(path, pem))}"
    return _Trust(lambda config: config.use_elliptic_key_verifier(public_key=path), name)


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise SettingsError(
            f"Signatures are read by the library model-signing, which cannot be loaded: {error}.",
            remedy="pip install 'genaf-sdk[signing]', or model-signing and pyopenssl",
        ) from error
    return model_signing


def _config() -> Any:
    """Return what verifies: all files that a signature names, by SHA-256; the Hub's cache is made of links."""
    library = _library()
    hashing = library.hashing.Config().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=True)
    hashing.set_ignored_paths(paths=[], ignore_git_paths=False).set_allow_symlinks(True)
    return library.verifying.Config().set_hashing_config(hashing).set_ignore_unsigned_files(True)


def _public_key(path: Path, pem: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{path} holds no public key.", expected=TRUSTED) from error
    require_curve(path, key)
    return key


def require_curve(path: Path, key: Any) -> None:
    """Refuse keys that bundles are not signed with.

    Raises:
        SettingsError: It is of another kind, or on another curve.
    """
    name = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise SettingsError(
            f"The key in {path} is of the kind {name}.",
            expected="an elliptic-curve key on P-256, P-384 or P-521",
            remedy="openssl ecparam -name prime256v1 -genkey -noout -out key.pem makes one",
        )


def key_name(key: Any) -> str:
    """Return the SHA-256 of a public key, as ``openssl pkey -pubin -outform DER | sha256sum`` gives it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return "SHA256:" + hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _certificates(path: Path, pem: bytes) -> list[Any]:
    from cryptography import x509

    try:
        return list(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise SettingsError(f"{path} holds no certificate, or a damaged one.", expected=TRUSTED) from error


def _chain(document: Document) -> list[Any]:
    """Return the certificates in a signature, the signer's first."""
    from cryptography import x509

    stated = document["verificationMaterial"]["x509CertificateChain"]["certificates"]
    return [x509.load_der_x509_certificate(base64.b64decode(entry["rawBytes"])) for entry in stated]


def _check_validity(trust: _Trust, document: Document) -> None:
    """Check the chain as of now: the library does so as of the day that the signer's certificate began.

    Nothing proves when a bundle was signed, so that whoever stole an expired key could go on signing with it.
    """
    from OpenSSL import crypto

    store = crypto.X509Store()
    for certificate in _certificates(Path(trust.name), trust.authority):
        store.add_cert(crypto.X509.from_cryptography(certificate))
    leaf, *others = (crypto.X509.from_cryptography(certificate) for certificate in _chain(document))
    try:
        crypto.X509StoreContext(store, leaf, others).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise BundleError(
            f"The signature's certificate is not valid today: {error}.",
            expected="certificates that are valid now",
            remedy="ask the publisher to sign again with one that is",
        ) from error


def _reason(folder: Path, files: dict[str, str], error: Exception, signed_by: str) -> str:
    if str(error).startswith("Signature mismatch"):  # the signature holds, the files do not
        for name, digest in files.items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"{name!r} in {folder} is not the file that was signed."
    detail = " ".join(str(error).split())[:300]
    said = f" ({detail})" if detail else ""
    return f"The signature of {folder} does not hold, or is not of {signed_by}{said}."


def _found(folder: Path) -> set[str]:
    """Return every file in a folder by its path inside, but for what a run or the Hub leaves there."""
    names = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    return {name for name in names if not any(name == left or _below(name, left) for left in LEFTOVERS)}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _below(name: str, folder: str) -> bool:
    return folder.endswith("/") and name.startswith(folder)
