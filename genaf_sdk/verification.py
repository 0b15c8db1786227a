"""Verify a bundle as whoever did not make it: hold its parts together, replay it, and attack it anew."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genaf_sdk._version import __version__
from genaf_sdk.claims import check_claims
from genaf_sdk.data import DATA_IDS, load_data
from genaf_sdk.data.alignment import aligned
from genaf_sdk.data.settings import LoadingConfig
from genaf_sdk.encoders import bundled, load_encoder
from genaf_sdk.errors import DataError, OutputError
from genaf_sdk.export.consistency import ConfigFile, read_config
from genaf_sdk.export.layout import SIGNATURE_FILE
from genaf_sdk.export.outcome import Item, Verification, not_replayed, recomputed
from genaf_sdk.export.signing import require_signature
from genaf_sdk.export.verify import verify_bundle
from genaf_sdk.fresh_attacks import attacked_anew
from genaf_sdk.models.checksums import check_whole
from genaf_sdk.models.fingerprint import fingerprint
from genaf_sdk.remeasured import replayed_beside
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.settings import Seed, converted

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from genaf_sdk.data import DataSplits
    from genaf_sdk.models.encoder import PixelEncoder

SAFE_DATA = tuple(name for name in DATA_IDS if ":" not in name)
"""Data whose ids lead to no folder of the verifier's choice and ask no network."""


def verify(
    bundle: str | Path,
    data: Any = None,
    *,
    fresh: bool = False,
    seed: int | None = None,
    signed_by: str | Path | None = None,
    backbone: nn.Module | None = None,
    encoder: str | nn.Module | None = None,
    on_attack: Callable[[str], object] = str,
) -> Verification:
    """Verify a bundle. Its report is data: it decides neither which images are read nor whether anything is fetched.

    Args:
        bundle: A bundle's folder.
        data: The verifier's images: an id, a folder, ``DataSplits``; as for ``load_data``. None takes the data set that
            the report names if it is one with an id, from this machine.
        fresh: Whether to attack anew: with the verifier's own seed, on weights and ONNX file. Images other than the
            report's will do then.
        seed: Of the fresh attacks; None draws one that nobody could know.
        signed_by: Whose signature the bundle has to have, as for ``genaf_sdk.export.signing.require_signature``; None
            asks for none.
        backbone: The encoder's architecture, needed only where it is a module of the publisher's own.
        encoder: The published one, an id or a module, which the attacker of the transfer column has; by default that of
            this package, where the report names it. Without any, no fresh attack is transferred.
        on_attack: Called with a line of text before each attack.

    Returns:
        One item for everything that the bundle states; ``agrees`` is the verdict.

    Raises:
        GenafError: The bundle is damaged, not whole or not signed by ``signed_by`` (``ExportError``, ``OutputError``),
            that is no key (``ConfigError``), or the data cannot be had
            or is not that of the report (``DataError``).
    """
    folder = Path(bundle)
    check_whole(folder)
    signature = authorship(folder, signed_by)
    report, config = RobustnessReport.load(folder), read_config(folder)
    images = verifiers_data(data, report, config)
    found = verify_bundle(folder, images, backbone=backbone, foreign_data=fresh)
    again = check_claims(report, same_version=config.genaf_sdk == __version__)
    in_order = aligned(images, config.class_names, model="the bundle")
    again += replayed_beside(folder, report, in_order)
    decided = {item.what: item for item in again}
    found.items = [decided.pop(item.what, item) for item in found.items]
    public = _public(report, encoder)
    found.items += [*decided.values(), *signature, *_encoder_by_hash(report, public)]
    if fresh:
        chosen = secrets.randbelow(2**31) if seed is None else seed
        found.items += attacked_anew(
            folder, report, in_order, chosen, backbone=backbone, public=public, on_attack=on_attack
        )
    return found


def verifiers_data(data: Any, report: RobustnessReport, config: ConfigFile) -> DataSplits:
    """Return the images that a bundle is verified on, as its model takes them.

    Of the report, only what divides and resizes the images is used, each held to its type and range.

    Raises:
        DataError: No data is given, and the report names none that has an id and lies on this machine.
    """
    if data is None:
        if report.data.name not in SAFE_DATA:
            raise DataError(
                f"The report was made with {report.data.name[:80]!r}, which is no data set that this package knows.",
                expected=f"images of your own, or one of {', '.join(SAFE_DATA)}",
                remedy="say where the images are: --data FOLDER",
            )
        data = report.data.name
    settings = report.config or {}
    loading = settings.get("loading")
    stated = {"validation_fraction": settings.get("validation_fraction", LoadingConfig().validation_fraction)}
    stated |= (
        {name: value for name, value in loading.items() if name != "download"} if isinstance(loading, dict) else {}
    )
    return load_data(
        data,
        image_size=config.image_size,
        channels=config.channels,
        interpolation=config.interpolation,
        seed=converted(Seed, settings.get("seed", report.seed), "config.seed of the report", error=OutputError),
        **LoadingConfig.from_dict(stated, "config.loading.").to_dict(),
    )


def authorship(folder: Path, signed_by: str | Path | None) -> list[Item]:
    """Check who signed a bundle, or say that nobody asked.

    Raises:
        ConfigError: ``signed_by`` is no key.
        ExportError: The bundle is not signed by it, or was altered.
    """
    if signed_by is not None:
        return [require_signature(folder, str(signed_by))]
    if (folder / SIGNATURE_FILE).exists():
        return [not_replayed("signature", "signed", "by whom was not asked: --signed-by KEY")]
    return []


def _public(report: RobustnessReport, encoder: str | nn.Module | None) -> PixelEncoder | None:
    """Return the published encoder, the verifier's or that of this package; a report's word has nothing else loaded."""
    if encoder is None:
        stated = "" if report.provenance is None else report.provenance.encoder
        encoder = stated if stated in {known.id for known in bundled.known()} else None
    return None if encoder is None else load_encoder(encoder)


def _encoder_by_hash(report: RobustnessReport, public: PixelEncoder | None) -> list[Item]:
    """Compare the weights that the model was made from with those of the published encoder."""
    if report.provenance is None:
        return []
    what, stated = "encoder by hash", report.provenance.encoder_sha256
    shown = f"{report.provenance.encoder} {stated[:16]}"
    if public is None:
        return [not_replayed(what, shown, "the published encoder is not in the bundle")]
    found = fingerprint(public.backbone.state_dict())
    return [recomputed(what, found == stated, shown, found[:16])]
