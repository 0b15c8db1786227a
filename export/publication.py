"""What of a bundle is published: its listed files, without pictures of the test set unless they are wanted."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from genaf_sdk.export.integrity import publishable, seal
from genaf_sdk.export.layout import HTML_FILE, REPORT_FILE
from genaf_sdk.files import write_json
from genaf_sdk.report.gallery import without_pictures
from genaf_sdk.report.robustness import RobustnessReport

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def publication(folder: Path, *, pictures: bool) -> Iterator[Path]:
    """Yield a folder that holds what is to be published.

    Args:
        folder: A whole bundle.
        pictures: Whether test images in the report's gallery are published with it. If not, a copy of the bundle is
            yielded whose report and page lack them; the folder itself stays as it is.

    Raises:
        ExportError: The bundle is not whole, a file is a link, or one is not listed.
        OutputError: The report cannot be read, or the copy cannot be written.
    """
    names = [file.name for file in publishable(folder)]
    report = RobustnessReport.load(folder) if REPORT_FILE in names else None
    if pictures or report is None or report.gallery is None or not report.gallery.images:
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy / name)
        without_pictures(report)
        write_json(copy / REPORT_FILE, report.to_dict())
        report.save_html(copy / HTML_FILE)
        seal(copy)
        yield copy
