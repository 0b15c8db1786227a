"""Signing bundles with OpenSSF model signing, and holding a bundle against whom the reader trusts."""

from __future__ import annotations

import datetime as dt
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genaf_sdk.errors import ConfigError, ExportError
from genaf_sdk.export.integrity import publishable
from genaf_sdk.export.layout import CHECKSUMS_FILE, LEFTOVERS, SIGNATURE_FILE
from genaf_sdk.export.outcome import Item, Outcome
from genaf_sdk.export.serve.errors import ServeError, SettingsError
from genaf_sdk.export.serve.signature import MAX_KEY, key_name, require_curve, require_signed, signed_files
from genaf_sdk.files import replacing
from genaf_sdk.models.checksums import TEMPORARY, check_whole

SIGSTORE = "sigstore"


@dataclass(frozen=True)
class Signer:
    """Who signs.

    Args:
        key: PEM file of a private key on P-256, P-384 or P-521; or ``sigstore``, which asks an identity provider for
            a certificate of minutes, in the browser or from a workflow's own credentials, and needs the network.
        certificates: PEM file of the certificate of ``key``, followed by those between it and the authority that
            verifiers trust. Without it they need the public key.
        password: Of an encrypted key.
    """

    key: str | Path
    certificates: Path | None = None
    password: str = field(default="", repr=False)


def sign_bundle(folder: str | Path, signer: Signer) -> str:
    """Sign every file of a bundle, its checksums included; an older signature is replaced.

    Args:
        folder: A whole bundle.
        signer: Whose key.

    Returns:
        Who signed, as text for people.

    Raises:
        ConfigError: The key or a certificate is missing, is none, does not fit, or has expired; or the library is not
            installed. Nothing of the key is ever in the text.
        ExportError: The bundle is not whole, holds a link, or cannot be signed.
        OutputError: The signature cannot be written.
    """
    folder = Path(folder)
    names = {file.name for file in publishable(folder)} - {SIGNATURE_FILE}
    library = require_library()
    # Reading the key first gives an error that says what is wrong with it.
    by = "an identity of sigstore" if str(signer.key) == SIGSTORE else _checked_key(signer)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / SIGNATURE_FILE
        try:
            config = library.signing.Config().set_hashing_config(_hashing(library, folder))
            _configured(config, signer).sign(folder, path)
            content = path.read_bytes()
            signed = signed_files(content)
        except Exception as error:  # every library underneath raises its own, and what it says may hold a token
            raise ExportError(
                f"{folder} cannot be signed: {type(error).__name__}.",
                remedy="check the network and the identity" if str(signer.key) == SIGSTORE else "sign it again",
            ) from None
    if set(signed) != names:
        changed = sorted(set(signed) ^ names)
        raise ExportError(f"{folder} changed while it was signed: {changed[0]}.", remedy="sign it again")
    with replacing(folder / SIGNATURE_FILE) as temporary:
        temporary.write_bytes(content)
    return by


def require_signature(folder: str | Path, signed_by: str) -> Item:
    """Check a bundle's signature and return what it shows.

    Args:
        folder: The bundle.
        signed_by: PEM file of the signer's public key or of the certificate of an authority that vouches for the
            signer, or ``sigstore:IDENTITY,ISSUER``.

    Raises:
        ConfigError: ``signed_by`` is missing or no key, or the library is not installed.
        ExportError: The bundle is not signed, is signed by another, was altered, or a certificate has expired.
    """
    folder = Path(folder)
    try:
        signed = require_signed(folder, signed_by)
    except SettingsError as error:
        raise ConfigError(str(error)) from error
    except ServeError as error:
        raise ExportError(str(error)) from error
    missing = sorted({*check_whole(folder), CHECKSUMS_FILE} - set(signed.files))
    if missing:
        raise ExportError(f"{missing[0]} in {folder} is not signed.", expected="a signature over every file")
    return Item("signature", Outcome.SIGNED, True, f"{len(signed.files)} files", signed.by)


def require_library() -> Any:
    """Return the library that signs.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import model_signing
    except ImportError as error:
        raise ConfigError(
            f"Bundles are signed by the library model-signing, which cannot be loaded: {error}.",
            remedy="pip install 'genaf-sdk[signing]'",
        ) from error
    return model_signing


def is_encrypted(key: str | Path) -> bool:
    """Whether a private key has a password, as far as its file says."""
    try:
        return b"ENCRYPTED" in _read(Path(key))
    except ConfigError:
        return False


def _hashing(library: Any, folder: Path) -> Any:
    """Return what is signed: all of a folder but what does not belong to the bundle."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    left = [name for name in names if TEMPORARY.fullmatch(name)]
    hashing = library.hashing.Config().use_file_serialization(hashing_algorithm="sha256")
    return hashing.set_ignored_paths(paths=[SIGNATURE_FILE, *LEFTOVERS, *left], ignore_git_paths=False)


def _configured(config: Any, signer: Signer) -> Any:
    if str(signer.key) == SIGSTORE:
        return config.use_sigstore_signer(use_ambient_credentials=True)
    if signer.certificates is not None:
        # The library wants a chain; the signer's own certificate in it once more does no harm.
        return config.use_certificate_signer(
            private_key=signer.key, signing_certificate=signer.certificates, certificate_chain=[signer.certificates]
        )
    return config.use_elliptic_key_signer(private_key=signer.key, password=_password(signer, _read(Path(signer.key))))


def _password(signer: Signer, pem: bytes) -> bytes | None:
    return signer.password.encode() if b"ENCRYPTED" in pem else None


def _checked_key(signer: Signer) -> str:
    """Try a private key and its certificate; return whose they are."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = Path(signer.key)
    pem = _read(path)
    if b"PRIVATE KEY" not in pem:
        raise ConfigError(f"{path} holds no private key.", expected="a PEM file of a private key, or sigstore")
    if signer.certificates is not None and b"ENCRYPTED" in pem:
        raise ConfigError(
            f"The key {path} has a password, and model-signing takes none with a certificate.",
            remedy=f"decrypt it where nobody else can read: openssl pkey -in {path} -out FILE",
        )
    if b"ENCRYPTED" in pem and not signer.password:
        raise ConfigError(f"The key {path} has a password.", expected="it", remedy="set GENAF_KEY_PASSWORD")
    try:
        key = load_pem_private_key(pem, _password(signer, pem))
    except Exception:  # what it says may tell of the key
        wrong = "its password is wrong, or it is damaged" if b"ENCRYPTED" in pem else "it is damaged"
        raise ConfigError(f"The key {path} cannot be read: {wrong}.", expected="a private key in PEM") from None
    try:
        require_curve(path, key)
    except SettingsError as error:
        raise ConfigError(str(error)) from error
    public = key.public_key()
    return f"the key {key_name(public)}" if signer.certificates is None else _checked(signer.certificates, public)


def _checked(path: Path, public: Any) -> str:
    """Try the certificate of a public key; return its subject."""
    from cryptography import x509

    try:
        leaf, *_ = x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise ConfigError(f"{path} holds no certificate, or a damaged one.", expected="certificates in PEM") from None
    if leaf.public_key() != public:
        raise ConfigError(
            f"The first certificate in {path} is not of this key.", expected="the signer's certificate first"
        )
    now = dt.datetime.now(dt.UTC)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise ConfigError(
            f"The certificate in {path} is valid from {leaf.not_valid_before_utc:%Y-%m-%d} to "
            f"{leaf.not_valid_after_utc:%Y-%m-%d}, and not today.",
            remedy="renew it",
        )
    return str(leaf.subject.rfc4514_string())


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.", expected="a PEM file")
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.", expected="a PEM file") from error
