"""``genaf sign`` and ``genaf push``."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from genaf_sdk.cli.output import DONE, Command, console, if_given, print_whole
from genaf_sdk.errors import ConfigError, HubError
from genaf_sdk.models.checksums import require_outside

if TYPE_CHECKING:
    from genaf_sdk.export.integrity import BundleFile
    from genaf_sdk.export.signing import Signer

PASSWORD_VARIABLE = "GENAF_KEY_PASSWORD"  # noqa: S105  # a name


def signer_of(key: str, certificate: Path | None) -> Signer:
    """Return who signs; the password of an encrypted key comes from the environment or a terminal, never as text."""
    from genaf_sdk.export.signing import Signer, is_encrypted

    password = os.environ.get(PASSWORD_VARIABLE, "")
    if not password and is_encrypted(key) and sys.stdin.isatty():
        password = getpass.getpass(f"Password of {key}: ")
    return Signer(key, certificate, password)


@dataclass(frozen=True)
class Sign(Command):
    """Sign every file of a bundle with OpenSSF model signing, so that others can tell that it is yours.

    They check it by `genaf verify FOLDER --signed-by KEY` and `genaf serve FOLDER --signed-by KEY`. A key is made by
    `openssl ecparam -name prime256v1 -genkey -noout -out key.pem`, what they need of it by
    `openssl pkey -in key.pem -pubout -out key.pub`.
    """

    bundle: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder that `genaf harden` left; model.sig is written into it."""
    key: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="KEY")]
    """PEM file of a private key on P-256, P-384 or P-521, its password in GENAF_KEY_PASSWORD; or sigstore, which needs
    the network and a browser or a workflow's credentials."""
    certificate: Annotated[Path | None, if_given("FILE")] = None
    """PEM file of the key's certificate and those between it and the authority that others trust."""

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.export.layout import BILL_FILE, SIGNATURE_FILE
        from genaf_sdk.export.signing import sign_bundle

        by = sign_bundle(self.bundle, signer_of(self.key, self.certificate))
        path = self.bundle / SIGNATURE_FILE
        if not (self.bundle / BILL_FILE).exists():
            console(stderr=True).print(
                f"There is no {BILL_FILE}: runs write a bill of materials where the extra `signing` is installed."
            )
        self.answer({"signature": str(path), "signed_by": by}, f"{path}: signed by {by}")
        return DONE


@dataclass(frozen=True)
class Push(Command):
    """Publish a bundle on the Hugging Face Hub, in one commit. What goes up is shown first."""

    bundle: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder that `genaf harden` left."""
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ORG/NAME")]
    """Repository on the Hub; made if it does not exist."""
    private: bool = True
    """Make a new repository private."""
    pictures: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Publish the test images in the report's gallery, too."""
    sign: Annotated[str | None, if_given("KEY")] = None
    """Sign what goes up, with a key as for `genaf sign`; the folder stays as it is."""
    certificate: Annotated[Path | None, if_given("FILE")] = None
    """Certificate of that key, as for `genaf sign`."""
    space: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Publish it as a Space instead: a page that shows pictures before and after the saved perturbations."""
    dry_run: Annotated[Path | None, if_given("FOLDER")] = None
    """Write what would go up into this folder, and publish nothing; needs no network."""
    revision: Annotated[str | None, if_given("BRANCH")] = None
    """Branch to commit to; by default the main one."""
    create_pr: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open a pull request instead."""
    yes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Do not ask on a terminal whether the files shown may go up."""

    def __call__(self) -> int:
        """Run."""
        if self.certificate is not None and self.sign is None:
            raise ConfigError("--certificate was given without --sign.", remedy="add --sign KEY")
        signer = None if self.sign is None else signer_of(self.sign, self.certificate)
        what: dict[str, Any] = {"pictures": self.pictures, "signer": signer, "space": self.space}
        if self.dry_run is not None:
            return self._write(self.dry_run, what)
        from genaf_sdk.export.hub import push_bundle

        shown: list[BundleFile] = []

        def show(files: list[BundleFile]) -> None:
            shown.extend(files)
            self._show(files)

        url = push_bundle(
            self.bundle,
            self.repo,
            private=self.private,
            revision=self.revision,
            create_pr=self.create_pr,
            on_files=show,
            **what,
        )
        self.answer({"url": url, "files": [asdict(file) for file in shown]}, url)
        return DONE

    def _write(self, folder: Path, what: dict[str, Any]) -> int:
        """Write what would go up, and say how a Space is tried."""
        from genaf_sdk.export.publication import write_outgoing

        files = write_outgoing(self.bundle, require_outside(folder), **what)
        megabytes = sum(file.size for file in files) / 1e6
        self.answer(
            {"folder": str(folder), "files": [asdict(file) for file in files]},
            f"{folder}: {len(files)} files, {megabytes:.1f} MB; nothing was published",
        )
        if self.space and not self.json:
            place, environment = shlex.quote(str(folder)), shlex.quote(f"{folder}-env")
            programs = f"{environment}/{'Scripts' if os.name == 'nt' else 'bin'}"
            print_whole("To try it, in an environment of its own, as Gradio takes older packages than this one:")
            print_whole(
                f"python -m venv {environment} && {programs}/pip install -r {place}/requirements.txt && "
                f"{programs}/python {place}/app.py"
            )
        return DONE

    def _show(self, files: list[BundleFile]) -> None:
        """Say what goes up, and on a terminal ask.

        Raises:
            HubError: The answer is no.
        """
        said = console(stderr=True)
        kind = "private" if self.private else "PUBLIC"
        where = f"the Space {self.repo}" if self.space else self.repo
        megabytes = sum(file.size for file in files) / 1e6
        said.print(f"{len(files)} files, {megabytes:.1f} MB, to {where} ({kind} if it is new):")
        for file in files:
            said.print(f"  {file.size:>12,} {file.name}")
        if self.yes or self.json or not (sys.stdin.isatty() and said.is_terminal):
            return
        if said.input("Publish these? [y/N] ").strip().lower() not in ("y", "yes"):
            raise HubError("Nothing was published.", expected="y", remedy="answer y, or pass --yes")
