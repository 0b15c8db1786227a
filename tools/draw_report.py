"""Draw docs/report.png: the top of a report's page, as headless Chromium shows it.

    genaf demo
    python tools/draw_report.py demo-output

The verdict stands at the left, the lowest accuracies at the right; nothing else of the page is changed. The verdict is
in the picture's description, too, so that a test can hold it against the tutorial.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from genaf_sdk.report.robustness import RobustnessReport

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "report.png"
WIDTH, HEIGHT, SCALE = 1500, 1100, 1.25
MARGIN = 24  # pixels
SIDE_BY_SIDE = """<style>
:root { color-scheme: light !important }
body { max-width: none !important; margin: 0 !important; padding: 24px !important;
       display: grid; grid-template-columns: 1fr 1fr; gap: 0 48px; align-items: start }
main { display: contents }
header, #verdict { grid-column: 1 }
#columns { grid-column: 2; grid-row: 1 / span 6; margin: 0 !important; padding-top: 0; border: 0 }
main > :not(#verdict, #columns), body > :not(header, main) { display: none !important }
</style></head>"""
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *(f"--window-size={WIDTH},{HEIGHT}", f"--force-device-scale-factor={SCALE}"),
)


def main(folder: Path) -> int:
    """Draw, cut off the empty rest, and reduce to 64 colors."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        print("There is no Chromium.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as place:
        page, picture = Path(place) / "page.html", Path(place) / "page.png"
        text = (folder / "report.html").read_text(encoding="utf-8")
        page.write_text(text.replace("</head>", SIDE_BY_SIDE, 1), encoding="utf-8")
        command = [program, *FLAGS, f"--user-data-dir={place}/profile", f"--screenshot={picture}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(picture) as drawn:
            shown = drawn.convert("RGB")
    ground = Image.new("RGB", shown.size, shown.getpixel((0, 0)))
    _, _, right, bottom = ImageChops.difference(shown, ground).getbbox() or (0, 0, *shown.size)
    size = min(right + MARGIN, shown.width), min(bottom + MARGIN, shown.height)
    about = PngInfo()
    about.add_text("Description", RobustnessReport.load(folder).verdict)
    reduced = shown.crop((0, 0, *size)).quantize(64, method=Image.Quantize.MAXCOVERAGE)
    reduced.save(PICTURE, optimize=True, pnginfo=about)
    print(f"{PICTURE}: {size[0]} x {size[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
