"""What of a bundle is published: its listed files, without pictures of the test set unless they are wanted.

For a Space it is the same, with the page that shows it.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from genaf_sdk.errors import ExportError, OutputError
from genaf_sdk.export.integrity import BundleFile, publishable, seal
from genaf_sdk.export.layout import HTML_FILE, REPORT_FILE, SIGNATURE_FILE
from genaf_sdk.export.signing import sign_bundle
from genaf_sdk.export.space import write_space
from genaf_sdk.files import output_errors, write_json
from genaf_sdk.report.gallery import without_pictures
from genaf_sdk.report.robustness import RobustnessReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genaf_sdk.export.signing import Signer


@contextmanager
def publication(folder: Path, *, pictures: bool, signer: Signer | None = None) -> Iterator[Path]:
    """Yield a folder that holds what is to be published.

    Args:
        folder: A whole bundle.
        pictures: Whether test images in the report's gallery are published with it. If not, a copy of the bundle is
            yielded whose report and page lack them; the folder itself stays as it is.
        signer: Signs what is published, a copy; None leaves a signature that there is.

    Raises:
        ConfigError: The signer's key cannot be used.
        ExportError: The bundle is not whole, a file is a link, or one is not listed; or there is a signature, which
            would not cover the report without its pictures.
        OutputError: The report cannot be read, or the copy cannot be written.
    """
    names = [file.name for file in publishable(folder)]
    report = RobustnessReport.load(folder) if REPORT_FILE in names else None
    stripped = report is not None and report.gallery is not None and bool(report.gallery.images) and not pictures
    if stripped and signer is None and SIGNATURE_FILE in names:
        raise ExportError(
            f"{folder} is signed with the test images in its report, which are not to be published.",
            expected="a signature over what is published",
            remedy="sign what goes up with --sign KEY, or publish the images with --pictures",
        )
    if not stripped and signer is None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / folder.resolve().name
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy / name)
        if stripped and report is not None:
            without_pictures(report)
            write_json(copy / REPORT_FILE, report.to_dict())
            report.save_html(copy / HTML_FILE)
            seal(copy)
        if signer is not None:
            sign_bundle(copy, signer)
        yield copy


@contextmanager
def outgoing(
    folder: Path, *, pictures: bool = False, signer: Signer | None = None, space: bool = False
) -> Iterator[tuple[Path, list[BundleFile]]]:
    """Yield a folder and those of its files that go up.

    Args:
        folder: A whole bundle.
        pictures: As for ``publication``.
        signer: Likewise.
        space: Whether it goes up as a Space, whose page shows it, rather than as a model.

    Raises:
        ConfigError: As for ``publication``.
        ExportError: Likewise; or an older version wrote the bundle, without the page of a Space.
        OutputError: As for ``publication``.
    """
    with publication(folder, pictures=pictures, signer=signer) as ready:
        if not space:
            yield ready, publishable(ready)
            return
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch), write_space(ready, Path(scratch))


def write_outgoing(
    folder: Path, target: Path, *, pictures: bool = False, signer: Signer | None = None, space: bool = False
) -> list[BundleFile]:
    """Write into a folder what would go up, and return its files; errors as for ``outgoing``.

    Args:
        folder: The bundle.
        target: The folder to be made.
        pictures: Whether pictures of the test set go up, too.
        signer: Signs what goes up.
        space: Whether to add the page of a Space.

    Raises:
        OutputError: ``target`` is there and not an empty folder, or cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target} is not empty.", expected="an empty folder, or a new one")
    with outgoing(folder, pictures=pictures, signer=signer, space=space) as (ready, files), output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".partial") as partial:
            inside = Path(partial) / target.name
            for file in files:
                (inside / file.name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ready / file.name, inside / file.name)
            if target.exists():
                target.rmdir()
            inside.rename(target)
    return files
